"""A run that never was: the artifacts of the pipeline with random images, for a report to be made of them."""

import re
from dataclasses import asdict, dataclass
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import save_file

from wellcheck import disparity, label_errors, metrics, robustness, samples
from wellcheck.artifacts import write_columns, write_csv, write_json
from wellcheck.params import Params, TwoSample, load, load_all
from wellcheck.report.evidence import Files, gather
from wellcheck.report.explanations import METHODS
from wellcheck.report.page import render
from wellcheck.samples import Description, Samples

ROOT = Path(__file__).parent.parent
HOSTILE = "</script><script>document.title='owned'</script>"
PROVENANCE = {"git_commit": "0" * 40, "versions": {"wellcheck": "0.1.0"}, "device": "CPU, 2 threads", "seconds": {"train@clean": 1.5}}
TARGET = 1
DETECTORS = ("centroid_tsne", "spectral_signatures", "mixture")
VARIANTS = ("clean", "poisoned", "cleansed", "perfect_filter", "random_filter")
FOOLED = ("poisoned", "random_filter")  # variants that follow the trigger


@dataclass(frozen=True)
class Case:
    """A run to make up: how many classes and images, of which shape, poisoned or not, and what the verdict says of it."""

    classes: int = 10
    training: int = 600
    tests: int = 100
    shape: tuple[int, int, int] = (1, 12, 10)
    planted: int = 30
    hostile: bool = False
    convicted: tuple[int, ...] | None = None  # None: the target if anything is planted
    own_content: bool = False  # clean-label: the flagged images show the label that they came with
    missed: int = 2  # planted images that are not flagged
    innocent: int = 3  # flagged images of the convicted labels that are not planted
    bent: bool = False  # the pattern is a displacement
    thin: int = 0  # labels, the last ones, with too few samples to be examined

    @property
    def found(self) -> tuple[int, ...]:
        """The convicted labels."""
        return ((TARGET,) if self.planted else ()) if self.convicted is None else self.convicted


@dataclass(frozen=True)
class Sets:
    """The training set before and after poisoning, the test set, and which rows of the training set were poisoned."""

    clean: Samples
    poisoned: Samples
    test: Samples
    planted: np.ndarray


def make_files(folder: Path, case: Case, seed: int = 0) -> Files:
    """Write the artifacts of a run with random images; the poisoned model answers the target to every triggered image."""
    rng = np.random.default_rng(seed)
    files = Files(**{field: folder / field for field in Files.__dataclass_fields__})
    sets = make_sets(case, rng)
    attacked = sets.test.take(np.arange(case.tests if case.planted else 0))
    for path, part in (
        (files.clean_train, sets.clean),
        (files.poisoned_train, sets.poisoned),
        (files.test, sets.test),
        (files.triggered, attacked),
    ):
        samples.write(path, part)
    write_models(files, sets.test, attacked, case)
    mapped = sets.clean.sample_id[: case.training // 2]
    for path in (files.clean_map, files.poisoned_map):
        axes = [f"{layer}_{axis}" for layer in ("pixels", "penultimate") for axis in "xy"]
        write_columns(path, {"sample_id": mapped, **{axis: rng.normal(size=len(mapped)).astype(np.float32) for axis in axes}})
    ids = sets.clean.sample_id
    write_columns(files.planted, {"sample_id": np.sort(ids[sets.planted]), "cover": np.zeros(len(sets.planted), bool)})
    write_label_errors(files, sets.poisoned, case)
    write_explanations(files, sets.test, case, rng)
    write_evasion(files, sets.test, case.classes, rng)
    write_watch(files, sets.test, case, rng)
    flagged = write_verdict(files, sets, case, rng)
    write_scores(files, sets, case, flagged, len(mapped), rng)
    kept = {
        files.cleansed_train: np.setdiff1d(np.arange(case.training), flagged),
        files.perfect_filter_train: np.setdiff1d(np.arange(case.training), sets.planted),
        files.random_filter_train: np.arange(case.training - len(flagged)),
    }
    dots = np.zeros((case.training, 1, 1, 1), np.uint8)  # of these no picture is shown
    for path, rows in kept.items():
        samples.write(path, Samples(ids, dots, sets.poisoned.labels, sets.poisoned.description).take(rows))
    return files


def make_sets(case: Case, rng: np.random.Generator) -> Sets:
    """Random images; the poisoned ones are white in their last corner and labelled as the target."""
    names = [HOSTILE if case.hostile and not label else f"class {label}" for label in range(case.classes)]
    about = Description(tuple(names), "made up")
    ids = np.arange(case.training, dtype=np.int64) * 3 + 7
    labels = np.arange(case.training) % case.classes
    pictures = rng.integers(0, 256, (case.training, *case.shape), np.uint8)
    planted = rng.permutation(case.training)[: case.planted]
    changed, given = pictures.copy(), labels.copy()
    changed[planted, :, -3:, -3:] = 255
    given[planted] = TARGET
    test_ids, test_labels = ids[-1] + 1 + np.arange(case.tests), np.arange(case.tests) % case.classes
    test = Samples(test_ids, rng.integers(0, 256, (case.tests, *case.shape), np.uint8), test_labels, about)
    return Sets(Samples(ids, pictures, labels, about), Samples(ids, changed, given, about), test, planted)


def write_evasion(files: Files, test: Samples, classes: int, rng: np.random.Generator) -> None:
    """What attacks on the inputs leave: two sizes of four attacks, each turning some of the answers."""
    chosen, kept, settings = test.take(np.arange(min(60, len(test)))), np.arange(3), load_all(ROOT / "params.yaml").evasion
    tables, pictures = [], {"sample_id": chosen.sample_id[kept]}
    runs = [(name, goal, epsilon) for name in settings.attacks for goal in settings.goals for epsilon in settings.epsilons]
    for variant in ("trained", "untrained"):
        for name, goal, epsilon in [*runs, (robustness.SIGN_ALONE, "untargeted", np.nan)]:
            if goal == "untargeted" or variant == "trained":
                after = rng.integers(0, classes, len(chosen))
                told = {"variant": variant, "attack": name, "goal": goal, "epsilon": epsilon}
                told |= {"confidence_before": 0.9, "confidence_after": 0.6}
                before = np.where(np.arange(len(chosen)) % 5, chosen.labels, (chosen.labels + 1) % classes)  # one in five is missed
                columns = {"label": chosen.labels, "label_before": before, "label_after": after, "sample_id": chosen.sample_id}
                columns |= {key: np.full(len(chosen), value) for key, value in told.items()}
                tables.append(columns | {"success": after != before})
                images = chosen.images[kept] / np.float32(255)
                pictures[robustness.image_name(variant, name, epsilon)] = np.clip(images + np.float32(0.1), 0, 1)
    table = {name: np.concatenate([one[name] for one in tables]) for name in tables[0]}
    write_columns(files.evasion_outcomes, table)
    save_file(pictures, files.evasion_images)
    write_json(files.evasion, robustness.figures(table, classes, 0.95))
    rates = disparity.rates(table["success"], table["label"], classes, 0.95)
    told_rates = {"per_class": [{**asdict(one), "rate": one.rate} for one in rates], "disparity": asdict(disparity.disparity(rates))}
    pairs = [asdict(one) for one in disparity.confused_pairs(metrics.confusion_matrix(table["label"], table["label_after"], classes), 5)]
    goals = dict.fromkeys(settings.goals, told_rates)
    relation = {goal: asdict(disparity.correlation(rates, rates)) for goal in goals}
    of_all: dict[str, Any] = {"attacked": goals, "correlation": relation}
    write_json(files.disparity, {"missed": told_rates, **of_all, "answered_right": of_all, "confused_pairs": pairs})


def write_watch(files: Files, test: Samples, case: Case, rng: np.random.Generator) -> None:
    """What watching traffic leaves: three layers, two sizes of two kinds of traffic, five suspicious inputs, maps of twenty."""
    rates = {"layers": {"activation_1": 0.1, "penultimate": 0.9, "alignment": 0.61}, "combined": 0.8, "combined_interval": [0.7, 0.9]}
    told = {"queries": 50, "changed": 50, "success": 0.4, "reference": 48.2, "not_compared": 0.0, **rates}
    sized = [{"kind": kind, "epsilon": epsilon, **told} for kind in ("pgd", "gaussian_noise") for epsilon in (0.01, 0.2)]
    natural = {"kind": "natural", "epsilon": None, **told, "success": None, "changed": 0}
    figures: dict[str, Any] = {"level": 0.05, "false_alarm_rate": 0.04, "false_alarm_interval": [0.02, 0.1], "epsilon": 0.2, **rates}
    figures |= {"attack": "pgd", "trials": 100, "permutations": 199, "queries": 50, "natural": 80}
    figures |= {"watched_layers": ["penultimate", "activation_1", "alignment"], "silent_layers": ["activation_2"]}
    figures |= {"traffic": [natural, *sized, {"kind": "blur", "epsilon": None, **told}], "mixed": [{"share": 0.5, **told}]}
    figures["per_sample"] = {"auroc": 0.9, "flagged": 0.6, "false_flag_rate": 0.05, "false_flag_interval": [0.01, 0.1], "samples": 80}
    write_json(files.watched, figures)
    shown = test.images[:5]
    save_file({"suspicious": shown, "natural": shown[::-1].copy()}, files.watched_images)
    inputs = [
        {"sample_id": int(sample), "witness": 2.0, "p_value": 0.01, "label": int(label), "answer": 0, "attacked": bool(label % 2)}
        for sample, label in zip(test.sample_id[:5], test.labels[:5], strict=True)
    ]
    write_json(files.suspicious, {"inputs": inputs})
    points = {f"{name}_{axis}": rng.normal(size=20).astype(np.float32) for name in ("input", "penultimate", "one_answer") for axis in "xy"}
    points["one_answer_x"][:7] = np.nan
    write_columns(files.watched_maps, {"sample_id": np.arange(20), "attacked": np.arange(20) >= 10, "answer": np.zeros(20, int), **points})


def write_label_errors(files: Files, train: Samples, case: Case) -> None:
    """What the search for label errors leaves: every twentieth label is a candidate for the class after it, the last ones the likeliest."""
    candidate = np.arange(len(train)) % 20 == 3
    suggested = np.where(candidate, (train.labels + 1) % case.classes, train.labels)
    quality = np.where(candidate, np.linspace(0.4, 0.1, len(train)), 0.9)
    judged = label_errors.LabelErrors(np.zeros((case.classes, case.classes), np.int64), candidate, suggested, quality)
    columns = {"sample_id": train.sample_id, "label": train.labels, "suggested": suggested, "quality": quality}
    write_columns(files.judged_labels, columns | {"candidate": candidate})
    figures = label_errors.figures(train.labels, judged, suggested, case.classes, 0.95)
    write_json(files.label_errors, figures | {"of": len(train) + 4, "folds": 3, "skipped": [{"label": 0, "samples": 2}]})


def write_explanations(files: Files, test: Samples, case: Case, rng: np.random.Generator) -> None:
    """What explaining leaves: five examples, one pair with two images, random maps by every method, a film; without colours too."""
    rows, pair = np.concatenate([np.arange(5), np.repeat([0, min(case.classes, len(test) - 1)], 2)]), np.repeat([-1, 0], [5, 4])
    explained = np.where(np.arange(9) < 5, test.labels[rows], np.arange(9) % 2)
    table = {"sample_id": test.sample_id[rows], "label": test.labels[rows], "predicted": np.where(pair < 0, test.labels[rows], 1)}
    table |= {"confidence": np.full(9, 0.8, np.float32), "explained": explained, "pair": pair}
    variants = ["trained", "untrained"]
    figures: dict[str, Any] = {"measured": 50, "sizes": {"patch": 2, "stride": 1, "border": 2}, "snapshots": 3, "grey": None}
    if case.shape[0] == 3:
        variants.append("grey")
        table |= {"grey_predicted": np.zeros(9, np.int64), "grey_confidence": np.full(9, 0.5, np.float32)}
        share = {"accuracy": 0.75, "accuracy_interval": [0.7, 0.8], "per_class": {"recall": [0.5] * (case.classes - 1) + [None]}}
        figures["grey"] = {"colour": share, "grey": share}
    names = [f"{variant}/{method}" for variant in variants for method in METHODS if variant != "grey" or method != "loss_gradients"]
    save_file({name: rng.normal(size=(9, *case.shape)).astype(np.float32) for name in names}, files.explained_maps)
    write_columns(files.explained, table)
    shares = {"images": 50, "mean": 0.3, "interval": [0.25, 0.35], "per_class": [0.25] * (case.classes - 1) + [None]}
    border = {"width": 2, "area": 0.5, **{variant: dict.fromkeys(METHODS, shares) for variant in variants[:2]}}
    gap = {"largest_gap": 0.01, "mean_gap": 0.001, "mean_difference": 5.0}
    pairs = [{"label": 0, "taken_for": 1, "count": 2, "share": 0.2}]
    write_json(files.explanations, figures | {"border": border, "completeness": {"integrated_gradients": gap}, "pairs": pairs})
    frames, sure = rng.normal(size=(4, 2, *case.shape)).astype(np.float16), np.full((4, 2), 0.1, np.float32)
    save_file({"maps": frames, "probability": sure, "rows": np.arange(2), "losses": np.array([2.3, 1.7, 1.15], np.float32)}, files.film)


def write_models(files: Files, test: Samples, attacked: Samples, case: Case) -> None:
    """What training, evaluating and attacking leave: the poisoned model errs on every test image and follows the trigger."""
    guesses = {variant: np.roll(test.labels, int(variant == "poisoned")) for variant in VARIANTS}
    hits = {variant: np.full(len(attacked), TARGET) if variant in FOOLED else attacked.labels for variant in VARIANTS}
    figures: dict[str, Any] = {}
    for variant, guess in guesses.items():
        matrix, share = metrics.confusion_matrix(test.labels, guess, case.classes), float((guess == test.labels).mean())
        figures[variant] = {
            "accuracy": share,
            "accuracy_interval": [share, share],
            "log_loss": 0.5,
            "samples": case.tests,
            "per_class": {"recall": metrics.recall(matrix), "precision": metrics.precision(matrix)},
        }
        if len(attacked):
            counts = metrics.backdoor(attacked.labels, hits[variant], np.full(len(attacked), TARGET))
            figures[variant]["backdoor"] = counts.figures(0.95)
    write_json(files.classify, figures)
    for model in (files.clean_model, files.poisoned_model):
        history = [[epoch, 2 - epoch / 10, 0.1 + epoch / 5, "", ""] for epoch in range(5)]
        write_csv(model / "history.csv", ["epoch", "train_loss", "train_accuracy", "valid_loss", "valid_accuracy"], history)
    every = len(VARIANTS)
    answers = np.concatenate(list(guesses.values()))
    variants = np.repeat(list(VARIANTS), case.tests)
    write_columns(files.predictions, {"variant": variants, "label": np.tile(test.labels, every), "predicted": answers})
    write_columns(
        files.outcomes,
        {
            "variant": np.repeat(list(VARIANTS), len(attacked)),
            "sample_id": np.tile(attacked.sample_id, every),
            "target": np.full(every * len(attacked), TARGET),
            "label_before": np.concatenate([guess[: len(attacked)] for guess in guesses.values()]),
            "label_after": np.concatenate(list(hits.values())),
        },
    )


def write_verdict(files: Files, sets: Sets, case: Case, rng: np.random.Generator) -> np.ndarray:
    """What `verdict` leaves of both sets, and the rows that it flags: most of the planted ones and a few others of its labels."""
    train, found = sets.poisoned, np.array(case.found, int)
    suspects = sets.planted[case.missed :][np.isin(train.labels[sets.planted[case.missed :]], found)]
    others = np.setdiff1d(np.flatnonzero(np.isin(train.labels, found)), sets.planted)
    flagged = np.concatenate([suspects, others[: case.innocent if case.planted else 30]])
    probability = np.where(np.isin(train.labels, found), 0.1 * rng.random(len(train)), 0.0)
    probability[flagged] = 0.6 + 0.4 * rng.random(len(flagged))
    shown = train.labels if case.own_content else sets.clean.labels
    columns = {"sample_id": train.sample_id, "probability": probability, "flagged": probability > 0.5, "suspected_label": shown}
    write_columns(files.judged, columns)
    order = flagged[np.argsort(-probability[flagged], kind="stable")]
    write_flagged(files.flagged, train.take(order), shown[order], probability[order])
    write_json(files.verdict, said(case, len(flagged), found.tolist()))
    write_json(files.clean_verdict, said(case, 0, []))
    difference = np.zeros(case.shape, np.float32)
    difference[:, -3:, -3:] = 120
    weight = (difference[0] > 0).astype(np.float32)
    parts = {"difference": difference, "weight": weight, "colour": np.full(case.shape, 255, np.float32)}
    parts["displacement"] = rng.normal(size=(2, 4, 4)).astype(np.float32)
    save_file({f"{label}.{part}": values for label in found.tolist() for part, values in parts.items()}, files.patterns)
    return flagged


def write_flagged(path: Path, flagged: Samples, shown: np.ndarray, probability: np.ndarray) -> None:
    """The table of flagged samples, with a class name in a reason, as `verdict` gives them."""
    shape = flagged.images.shape[1:]
    flat = pa.FixedSizeListArray.from_arrays(pa.array(flagged.images.reshape(-1)), int(np.prod(shape)))
    names = flagged.description.class_names
    reasons = [["lies apart from the rest of its label", f"a model that never saw it reads {names[label]}"] for label in shown.tolist()]
    table = {
        "sample_id": pa.array(flagged.sample_id),
        "image": pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.uint8(), shape), flat),
        "label": pa.array(flagged.labels),
        "suspected_label": pa.array(shown),
        "probability": pa.array(probability),
        "reasons": pa.array(reasons, pa.list_(pa.string())),
    }
    pq.write_table(pa.table(table), path)


def said(case: Case, flagged: int, convicted: list[int]) -> dict[str, Any]:
    """verdict.json: strong evidence against the convicted labels, next to none against the others."""
    finding = {"source": "mixture in penultimate", "suspects": 28, "own_content": False, "apart": 2.0}
    finding |= {"held_out": 7, "generalises": 1.0, "turned": 0.1, "legible": 0.97, "p_turned": 0.9, "way": "bent" if case.bent else "added"}
    finding |= {"everywhere": 0.05, "p_everywhere": 1.0}
    finding |= {"stamped": 0.0, "searched": 0, "marked": 0.0, "p_marked": 1.0}
    labels = []
    for label in range(case.classes):
        guilty, thin = label in convicted, label >= case.classes - case.thin
        share = 0.9 if guilty else 0.02 * (label % 5)
        told = finding | {"foreign": share, "p_generalises": 3e-12 if guilty else 0.4, "p_foreign": 2e-9 if guilty else 1.0}
        findings = [] if thin else [told]
        findings = [one | {"own_content": True, "turned": share} for one in findings] if case.own_content else findings
        labels.append(
            {
                "label": label,
                "samples": 5 if thin else case.training // case.classes,
                "groups": len(findings),
                "evidence": share,
                "z": 17.5 if guilty else 0.3,
                "p_value": 3e-11 if guilty else 1.0,
                "convicted": guilty,
                "bent": guilty and case.bent,
                "note": "only 5 samples: not examined" if thin else "",
                "findings": findings,
            }
        )
    return {
        "poisoned": bool(convicted),
        "target_labels": convicted,
        "p_value": 3e-11 if convicted else 0.4,
        "flagged": flagged,
        "threshold": 0.5,
        "not_examined": case.thin,
        "labels": labels,
    }


def write_scores(files: Files, sets: Sets, case: Case, flagged: np.ndarray, mapped: int, rng: np.random.Generator) -> None:
    """What `detect` and `assess` leave: random scores; figures and curves only where something was planted."""
    scores = rng.random(case.training)
    partial = np.where(np.arange(case.training) < mapped, scores, np.nan)
    write_columns(files.scores, {"sample_id": sets.clean.sample_id, **dict(zip(DETECTORS, (partial, scores, 4 * scores), strict=True))})
    hits = int(np.isin(flagged, sets.planted).sum())
    rates = {
        "auroc": 0.75,
        "average_precision": 0.5,
        "tpr_at_1pct_fpr": 0.25,
        "auroc_in_target_label": 0.8,
        "tpr": 0.4,
        "fpr": 0.02,
        "f1": 0.5,
    }
    own = {"tpr": hits / max(case.planted, 1), "fpr": (len(flagged) - hits) / case.training, "precision": hits / max(len(flagged), 1)}
    right = set(case.found) == {TARGET}
    detector = {"samples": case.training, "seconds": 0.1, "flagged": 40, **(rates if case.planted else dict.fromkeys(rates))}
    verdict = {
        **{name: value for name, value in said(case, len(flagged), list(case.found)).items() if name not in ("labels", "threshold")},
        "target_label": case.found[0] if case.found else None,
        **(own | {"right_target": right} if case.planted else dict.fromkeys([*own, "right_target"])),
    }
    controls = {"clean_data": {"flagged": 0, "verdict": False}, "perfect_filter": {"removed": case.planted}}
    detection = {"planted": case.planted, "cover": 0, "verdict": verdict, "controls": controls}
    write_json(files.detection, detection | {"detectors": dict.fromkeys(DETECTORS, detector)})
    names = [*DETECTORS, "verdict"] if case.planted else []
    roc = [(name, *point) for rank, name in enumerate(names) for point in ((0, 0), (0.4 - 0.13 * rank, 0.8), (1, 1))]
    recall = [(name, *point) for rank, name in enumerate(names) for point in ((0, 1), (0.9, 0.3 + 0.2 * rank), (1, 0.05))]
    write_csv(files.roc, ["detector", "false_positive_rate", "true_positive_rate"], roc)
    write_csv(files.precision_recall, ["detector", "recall", "precision"], recall)


def settings(**report: Any) -> Params:
    """The committed params with other report settings and the target that make_files plants."""
    whole = load_all(ROOT / "params.yaml")
    poison = whole.poison.model_copy(update={"target_label": TARGET})
    return whole.model_copy(update={"poison": poison, "report": whole.report.model_copy(update=report)})


def page_of(folder: Path, case: Case, **report: Any) -> str:
    """The report of a made-up run."""
    return render(gather(make_files(folder, case)), settings(**report), PROVENANCE, None)


def text_of(page: str) -> str:
    """What a reader reads; the cells of a table stand apart."""
    apart = re.sub(r"(?=</t[dh]>)", " ", page)
    return " ".join(unescape(re.sub(r"<script.*?</script>|<style.*?</style>|<[^>]+>", "", apart, flags=re.DOTALL)).split())


def section(page: str, name: str) -> str:
    """One section of the page."""
    return page[page.index(f'<section id="{name}"') :].split("</section>")[0]


def twosample(**changes: Any) -> TwoSample:
    """The committed settings of the two-sample test, for few images."""
    small = {"samples": 20, "trials": 10, "permutations": 39, "steps": 4, "epsilons": [0.1], "images": None}
    return load(TwoSample, ROOT / "params.yaml").model_copy(update={**small, **changes})
