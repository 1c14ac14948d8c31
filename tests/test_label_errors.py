"""Label errors: by hand, beside cleanlab on the same probabilities, and on labels that were changed on purpose."""

import numpy as np
import pytest
from cleanlab.count import compute_confident_joint
from cleanlab.filter import find_label_issues
from cleanlab.rank import get_label_quality_scores
from sklearn.metrics import roc_auc_score

from wellcheck import label_errors
from wellcheck.errors import InputError


def made_up(seed: int, *, count: int = 600, classes: int = 5, wrong: float = 0.1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, probabilities of a fair model, and which labels are wrong."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, count)
    logits = rng.normal(0, 1, (count, classes)) + 3 * np.eye(classes)[truth]
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    changed = rng.random(count) < wrong
    return np.where(changed, (truth + rng.integers(1, classes, count)) % classes, truth), probabilities, changed


def test_by_hand() -> None:
    labels = np.array([0, 0, 0, 1, 1, 1])
    first = np.array([0.9, 0.8, 0.1, 0.2, 0.3, 0.65])  # of class 0: usual there 0.6, and of class 1 among its own 0.6167
    found = label_errors.find(labels, np.column_stack([first, 1 - first]))
    np.testing.assert_array_equal(found.joint, [[2, 1], [1, 2]])
    np.testing.assert_array_equal(found.ranked, [2, 5])
    np.testing.assert_array_equal(found.suggested, [0, 0, 1, 1, 1, 0])
    np.testing.assert_allclose(found.quality, [0.9, 0.8, 0.1, 0.8, 0.7, 0.35])


def test_whom_no_class_claims_is_no_candidate() -> None:
    labels = np.array([0, 0, 1, 1])
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9], [0.45, 0.55]])  # usual: 0.9 and 0.725
    found = label_errors.find(labels, probabilities)
    assert found.joint.sum() == 3 and not found.candidate.any()


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("classes", "wrong"), [(2, 0.2), (5, 0.1), (30, 0.3)])
def test_it_is_cleanlabs(seed: int, classes: int, wrong: float) -> None:
    labels, probabilities, _ = made_up(seed, classes=classes, wrong=wrong)
    found = label_errors.find(labels, probabilities)
    theirs = compute_confident_joint(labels, probabilities, calibrate=False)
    np.testing.assert_array_equal(found.joint + np.diag(np.where(found.joint.diagonal() == 0, 1, 0)), theirs)
    np.testing.assert_allclose(found.quality, get_label_quality_scores(labels, probabilities), rtol=1e-12)
    flagged = find_label_issues(labels, probabilities, filter_by="low_self_confidence", n_jobs=1)
    np.testing.assert_array_equal(found.candidate, flagged)


def test_the_candidates_are_the_worst_of_those_answered_otherwise() -> None:
    # Usual of class 0: 0.42, of 1: 0.7; the fourth is confidently of class 1, and the third, which no class claims, is a worse label.
    labels = np.array([0, 0, 0, 0, 1, 1])
    own, other = [0.8, 0.8, 0.02, 0.06, 0.1, 0.1], [0.1, 0.1, 0.5, 0.9, 0.6, 0.8]
    found = label_errors.find(labels, np.column_stack([own, other, 1 - np.add(own, other)]))
    np.testing.assert_array_equal(found.joint[:2, :2], [[2, 1], [0, 1]])
    assert found.ranked.tolist() == [2]


def test_calibration_undoes_what_made_answers_too_sure_or_partial() -> None:
    labels, probabilities, _ = made_up(0, count=20_000, wrong=0)
    fair = label_errors.calibrated(labels, probabilities)
    bent = fair**2.5 * np.array([1, 2, 4, 0.5, 1])
    again = label_errors.calibrated(labels, bent / bent.sum(1, keepdims=True))
    np.testing.assert_allclose(again, fair, atol=2e-3)
    np.testing.assert_allclose(again.mean(0), np.bincount(labels) / len(labels), atol=1e-3)  # each class as often as it is given


def test_calibration_of_what_it_cannot_improve() -> None:
    labels = np.repeat([0, 1, 3], 20)
    never_wrong = np.eye(4)[labels]
    found = label_errors.calibrated(labels, never_wrong)
    np.testing.assert_allclose(found, never_wrong, atol=1e-6)
    assert label_errors.calibrated(labels[:0], never_wrong[:0]).shape == (0, 4)
    with pytest.raises(InputError, match="3 labels need as many rows"):
        label_errors.calibrated(labels[:3], never_wrong)


def test_a_class_that_no_model_believes_in_claims_nobody() -> None:
    labels, probabilities, _ = made_up(0, count=500, classes=4, wrong=0)
    probabilities = np.column_stack([probabilities * (1 - 1e-12), np.full(500, 1e-12)])
    labels[:20] = 4
    found = label_errors.find(labels, probabilities)
    np.testing.assert_array_equal(found.candidate, find_label_issues(labels, probabilities, filter_by="low_self_confidence", n_jobs=1))
    assert not found.joint[:, 4].any()


@pytest.mark.parametrize("wrong", [0.05, 0.1, 0.2])
def test_wrong_labels_rank_first(wrong: float) -> None:
    labels, probabilities, changed = made_up(0, count=3000, wrong=wrong)
    found = label_errors.find(labels, probabilities)
    assert roc_auc_score(changed, -found.quality) > 0.95
    assert changed[found.ranked[: int(changed.sum() / 2)]].mean() > 0.9


def test_a_class_without_samples_is_nobodys() -> None:
    labels, probabilities, _ = made_up(0, classes=4)
    kept = labels != 2
    found = label_errors.find(labels[kept], probabilities[kept])
    assert not found.joint[:, 2].any() and not found.joint[2].any()
    np.testing.assert_array_equal(
        find_label_issues(labels[kept], probabilities[kept], filter_by="low_self_confidence", n_jobs=1), found.candidate
    )


def test_no_model_answers_what_it_has_seen() -> None:
    labels = np.repeat([0, 1, 2], (40, 30, 7))
    seen: list[tuple[np.ndarray, np.ndarray]] = []

    def answer(inside: np.ndarray, outside: np.ndarray, fold: int) -> np.ndarray:
        seen.append((inside, outside))
        return np.full((len(outside), 3), fold, np.float32)

    found = label_errors.out_of_sample(labels, 3, folds=5, seed=0, answer=answer)
    assert all(not set(inside) & set(outside) and len(inside) + len(outside) == 77 for inside, outside in seen)
    np.testing.assert_array_equal(np.sort(np.concatenate([outside for _, outside in seen])), np.arange(77))
    for fold, (_, outside) in enumerate(seen):
        assert (found[outside] == fold).all()
        assert np.abs(np.bincount(labels[outside], minlength=3) - np.array([8, 6, 1.4])).max() <= 1
    again = label_errors.out_of_sample(labels, 3, folds=5, seed=1, answer=answer)
    assert (again != found).any()


@pytest.mark.parametrize(("folds", "told"), [(8, "8 folds are too many: label 2 has 7 samples"), (1, "1 folds are too few: at least 2")])
def test_folds_that_cannot_be(folds: int, told: str) -> None:
    with pytest.raises(InputError, match=told):
        label_errors.out_of_sample(np.repeat([0, 2], (40, 7)), 3, folds=folds, seed=0, answer=lambda *_: np.empty(0))


@pytest.mark.parametrize(
    ("labels", "probabilities", "told"),
    [
        ([0, 1], [[1.0, 0.0]], r"2 labels need as many rows of probabilities, found \[1, 2\]"),
        ([0, 0], [[1.0], [1.0]], "at least two classes are needed, found 1"),
        ([0, 2], [[1.0, 0.0], [0.5, 0.5]], "labels must be 0 to 1, found 0 to 2"),
        ([0, 1], [[1.0, 0.0], [float("nan"), 0.5]], "1 of 2 rows are no probabilities, the first is row 1"),
        ([0, 1], [[3.0, -2.0], [0.5, 0.5]], "1 of 2 rows are no probabilities, the first is row 0"),
        ([0, 1], [[0.2, 0.2], [0.9, 0.9]], "2 of 2 rows are no probabilities"),
    ],
)
def test_bad_input_is_named(labels: list[int], probabilities: list[list[float]], told: str) -> None:
    with pytest.raises(InputError, match=told):
        label_errors.find(np.array(labels), np.array(probabilities))
