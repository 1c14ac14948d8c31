"""What an attacker may want, from the logits of the images as they are."""

from typing import Literal

import torch

from wellcheck.errors import InputError
from wellcheck.evasion.victim import Task

GoalName = Literal["untargeted", "random_class", "least_likely"]


def set_task(goal: GoalName, logits: torch.Tensor, generator: torch.Generator) -> Task:
    """Lose the present answer; get a random other one; or get the one that is now the least likely (Kurakin et al. 2017, 1607.02533).

    logits: float [n, K]. Raises InputError if there is a single class.
    """
    classes = logits.shape[1]
    if classes < 2:
        raise InputError("evasion: a model of one class has no other answer")
    answers = logits.argmax(1)
    if goal == "untargeted":
        return Task(answers, targeted=False)
    if goal == "least_likely":
        others = logits.scatter(1, answers[:, None], torch.inf)  # where all are as likely, not the present answer
        return Task(others.argmin(1), targeted=True)
    further = torch.randint(1, classes, answers.shape, generator=generator).to(answers.device)
    return Task((answers + further) % classes, targeted=True)


def aim_at(label: int, logits: torch.Tensor) -> Task:
    """Get this label. Raises InputError if there is no such class."""
    if not 0 <= label < logits.shape[1]:
        raise InputError(f"evasion: the target must be one of the {logits.shape[1]} classes, 0 to {logits.shape[1] - 1}; found {label}")
    return Task(torch.full_like(logits.argmax(1), label), targeted=True)
