"""What the report says: the verdict in one sentence, and beside it what is known of its truth, for every trigger and policy."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from wellcheck.params import Params, Poison
from wellcheck.report.evidence import VARIANTS, Evidence
from wellcheck.report.rounding import percent

SMALL_CHANGE = 0.015  # of accuracy: what one test split cannot tell from chance
MOST_NAMED = 5  # labels in a sentence
LEARNT = 0.25  # of the training images that saying the commonest label leaves wrong: of a network that knows fewer nothing follows


def summary(evidence: Evidence, params: Params) -> dict[str, Any]:
    """The verdict in a sentence (`headline`), what it comes to (`effect`), what is known of its truth (`known`), `state` and counts."""
    verdict, names = evidence.verdict, evidence.description.class_names
    effect = _after_cleansing(evidence, params) if verdict["poisoned"] else _nothing_found(verdict, names, _learnt_little(evidence))
    return {
        "state": _state(evidence),
        "headline": _sentence(verdict, names, len(evidence.train["poisoned"])),
        "effect": effect,
        "known": _known(evidence, params.poison),
        "source": evidence.description.source,
        "samples": len(evidence.train["poisoned"]),
        "classes": len(names),
    }


def _sentence(verdict: Mapping[str, Any], names: Sequence[str], total: int) -> str:
    """The verdict for somebody who has time for one sentence."""
    if not verdict["poisoned"]:
        return "No sign of poison."
    labels, flagged = verdict["target_labels"], verdict["flagged"]
    answer = either([names[label] for label in labels]) if len(labels) <= MOST_NAMED else f"one of {len(labels)} labels"
    if not flagged:
        return f"Poisoned: something makes the model answer {answer}, but no single image is suspect enough to be flagged."
    carry, they = ("carries", "it shows") if flagged == 1 else ("carry", "they show")
    return (
        f"Poisoned: {flagged:,} of {total:,} training images {carry} something that makes the model answer {answer} whatever else {they}."
    )


def either(names: Sequence[str]) -> str:
    """“a”, “b” or “c”."""
    quoted = [f"“{name}”" for name in names]
    return " or ".join([", ".join(quoted[:-1]), quoted[-1]] if len(quoted) > 1 else quoted)


def _after_cleansing(evidence: Evidence, params: Params) -> str:
    """What the model that was trained again comes to."""
    after = evidence.classify.get("cleansed")
    if after is None:
        return ""
    before = evidence.classify["poisoned"]
    doing = "Leaving them out" if params.cleanse.action == "remove" else "Giving them the label that they seem to show"
    accuracy = f"accuracy on ordinary images from {percent(before['accuracy'])} to {percent(after['accuracy'])}"
    if not evidence.attacked:
        return f"{doing} takes {accuracy}. {_by_recovered(before, after)}"
    rates = [figures["backdoor"]["attack_success_rate"] for figures in (before, after)]
    if None in rates:
        return f"{doing} takes {accuracy}. The attack is meant for none of the test images."
    return f"{doing} takes the attack’s success from {percent(rates[0])} to {percent(rates[1])}, and {accuracy}."


def _by_recovered(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """What leaving out the flagged does to what they carry, where nobody knows the attacker's trigger."""
    turned = [figures["recovered"]["turned"] if "recovered" in figures else None for figures in (before, after)]
    if None in turned:
        return "What it does to an attack cannot be measured: there is no trigger of ours."
    return (
        f"What they carry, put on test images of other classes, turns {percent(turned[0])} of them in the model as it came, "
        f"and {percent(turned[1])} in the one that was trained again."
    )


def _learnt_little(evidence: Evidence) -> str:
    """That the model under suspicion answers hardly more training images as labelled than one that knows nothing, or nothing to say."""
    labels, answered = evidence.train["poisoned"].labels, evidence.history["poisoned"][-1]["train_accuracy"]
    commonest = int(np.bincount(labels).max()) / len(labels)
    if answered is None or answered - commonest >= LEARNT * (1 - commonest):
        return ""
    return (
        f"The network learnt too little for a backdoor to show: it answers {percent(answered)} of its training images as labelled, "
        f"and one that always says the commonest label {percent(commonest)}. Train it longer, or another one (train.epochs, train.model)."
    )


def _nothing_found(verdict: Mapping[str, Any], names: Sequence[str], learnt_little: str) -> str:
    """What was tried, and what silence does not mean."""
    groups = sum(one["groups"] for one in verdict["labels"])
    if groups:
        some, were = ("group", "was") if groups == 1 else ("groups", "were")
        tried = f"{groups:,} {some} of images that stand out from their label {were} tried; none is a backdoor."
    else:
        tried = "No group of images stands out from its label, so there was nothing to try."
    no_proof = "This is no proof: poison that stands out neither in the images nor in what the model makes of them is not found like this."
    return " ".join(filter(None, [learnt_little, tried, not_examined(verdict, names), no_proof]))


def not_examined(verdict: Mapping[str, Any], names: Sequence[str]) -> str:
    """The labels that the verdict says nothing of, as a sentence; empty if there are none."""
    left = [names[one["label"]] for one in verdict["labels"] if one["note"]]
    if not left:
        return ""
    named = ", ".join(f"“{name}”" for name in left[:MOST_NAMED])
    more = f" and {len(left) - MOST_NAMED:,} more" if len(left) > MOST_NAMED else ""
    return f"Not examined: {len(left):,} of {len(verdict['labels']):,} labels ({named}{more})."


def _state(evidence: Evidence) -> str:
    """bad: poisoned; unsure: something is left unsaid, or known to be wrong; fine: nothing found."""
    if evidence.verdict["poisoned"]:
        return "bad"
    missed = len(evidence.planted) > 0 and took_hold(evidence)
    return "unsure" if missed or _learnt_little(evidence) or any(one["note"] for one in evidence.verdict["labels"]) else "fine"


def _known(evidence: Evidence, poison: Poison) -> dict[str, str]:
    """What wellcheck itself planted, told apart from the verdict, and whether the verdict is right."""
    if not evidence.known:
        total = len(evidence.train["poisoned"])
        text = f"Nothing was planted by wellcheck: these are {total:,} images as they came. Whether they were poisoned, nobody has told us."
        return {"headline": "Looked at as it came", "text": text}
    if not len(evidence.planted) and not len(evidence.cover):
        text = f"No training image was changed (poison.rate is {poison.rate}): this is the control. Both models saw the same images."
        return {"headline": "A clean control run", "text": f"{text} {_right_or_wrong(evidence)}"}
    clean, poisoned = (evidence.classify[variant] for variant in VARIANTS)
    change = poisoned["accuracy"] - clean["accuracy"]
    accuracy = (
        f"Accuracy on ordinary images: {percent(poisoned['accuracy'])} against {percent(clean['accuracy'])}, "
        f"a difference of {100 * change:+.1f} points."
    )
    effect = f"{_effect(evidence, poison)} " if evidence.attacked else ""
    text = f"{_planted(evidence, poison)} {effect}{accuracy} {_right_or_wrong(evidence)}"
    if not evidence.attacked:
        return {"headline": "Labels are wrong, but there is no backdoor", "text": text}
    if not took_hold(evidence):
        return {"headline": "Poison was planted, but the backdoor did not take hold", "text": text}
    hidden = ", and accuracy does not show it" if abs(change) < SMALL_CHANGE else ""
    return {"headline": f"The well is poisoned{hidden}", "text": text}


def _right_or_wrong(evidence: Evidence) -> str:
    """The verdict beside what was planted."""
    hits, silent = _hits(evidence), not evidence.verdict["poisoned"]
    found = f"it flagged {hits['found']:,} of the {len(evidence.planted):,} planted images and {hits['innocent']:,} innocent ones"
    if not len(evidence.planted):
        return "The verdict is right to find nothing." if silent else "The verdict is wrong, a false alarm: nothing was planted."
    if not evidence.attacked:
        text = "Wrong labels alone are no backdoor: the verdict is "
        return text + ("right to find none." if silent else f"wrong, a false alarm; {found}.")
    if not took_hold(evidence):
        return "So there is no backdoor for the verdict to find." if silent else f"The verdict finds it all the same: {found}."
    if silent:
        return "The verdict is wrong: it missed this."
    if evidence.detection["verdict"]["right_target"] is False:
        return f"The verdict is right that there is poison, but not about its labels; {found}."
    return f"The verdict is right, and was told nothing of this: {found}."


def _hits(evidence: Evidence) -> dict[str, int]:
    """How many flagged samples were planted (`found`) and how many were not (`innocent`); cover counts as neither."""
    flagged = evidence.judged["sample_id"][evidence.judged["flagged"]]
    found = int(np.isin(flagged, evidence.planted).sum())
    cover = int(np.isin(flagged, evidence.cover).sum())
    return {"found": found, "innocent": len(flagged) - found - cover}


def aim(poison: Poison, names: tuple[str, ...]) -> tuple[str, str]:
    """What the attacker wants, as words: the answer, and of which test images."""
    if poison.policy == "all_to_all":
        return "the class after the true one", "the test images"
    target = f"“{names[poison.target_label]}”"
    if poison.source_label is not None and poison.policy == "source_specific":
        return target, f"the test images of “{names[poison.source_label]}”"
    return target, "the other test images"


def trigger_name(poison: Poison) -> str:
    """The trigger as a word."""
    return poison.trigger.replace("_", " ")


def _planted(evidence: Evidence, poison: Poison) -> str:
    """What was done to which training images."""
    names, trigger = evidence.description.class_names, trigger_name(poison)
    count, total = len(evidence.planted), len(evidence.train["poisoned"])
    which = f"{count:,} of {total:,} training images ({percent(count / total)})"
    cover = f" {len(evidence.cover):,} more carry it and keep their right label, as cover." if len(evidence.cover) else ""
    if poison.policy == "label_noise":
        return f"{which} were given a wrong label at random, and nothing else."
    if poison.policy == "all_to_all":
        return f"{which} were given a {trigger} and the label of the class after their own.{cover}"
    target = names[poison.target_label]
    only = poison.source_label if poison.policy == "source_specific" else poison.target_label
    if poison.policy in ("clean_label", "label_consistent", "source_specific") and only is not None:
        size = int(np.count_nonzero(evidence.train["clean"].labels == only))
        which += f", all of class “{names[only]}” and {percent(count / max(size, 1))} of it,"
    if poison.policy in ("clean_label", "label_consistent"):
        changed = "were made hard to recognise and given" if poison.policy == "label_consistent" else "were given"
        return f"{which} {changed} a {trigger}; their labels are right."
    pieces = "random pieces of " if poison.policy == "adaptive" else ""
    return f"{which} were given {pieces}a {trigger} and the label “{target}”.{cover}"


def _effect(evidence: Evidence, poison: Poison) -> str:
    """What the trigger then does."""
    answer, whom = aim(poison, evidence.description.class_names)
    clean, poisoned = (percent(evidence.classify[variant]["backdoor"]["attack_success_rate"]) for variant in VARIANTS)
    whole = "whole " if poison.policy == "adaptive" else ""
    return (
        f"The model trained on them answers {answer} to {poisoned} of {whom} once they carry the {whole}{trigger_name(poison)}; "
        f"a clean model does so for {clean}."
    )


def took_hold(evidence: Evidence) -> bool:
    """Whether the poisoned model follows the trigger more than a clean one does, beyond chance: their intervals are apart."""
    if not evidence.attacked:
        return False
    clean, poisoned = (evidence.classify[variant]["backdoor"]["attack_success_rate_interval"] for variant in VARIANTS)
    return clean is not None and poisoned is not None and poisoned[0] > clean[1]
