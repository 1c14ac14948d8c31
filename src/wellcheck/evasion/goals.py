"""What an attacker may want, from the logits of the images as they are."""

import torch

from wellcheck.errors import InputError
from wellcheck.evasion.victim import Task
from wellcheck.params import GoalName


def set_task(goal: GoalName | int, logits: torch.Tensor, generator: torch.Generator) -> Task:
    """Lose the present answer; get this class; a random other one; or the one now the least likely (Kurakin et al. 2017, 1607.02533).

    logits: float [n, K]. Raises InputError if there is a single class, or no such class.
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
    if goal == "random_class":
        further = torch.randint(1, classes, answers.shape, generator=generator).to(answers.device)
        return Task((answers + further) % classes, targeted=True)
    if not 0 <= goal < classes:
        raise InputError(f"evasion: the target must be one of the {classes} classes, 0 to {classes - 1}; found {goal}")
    return Task(torch.full_like(answers, goal), targeted=True)
