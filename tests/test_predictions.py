"""Predictions against a linear classifier whose answers are known."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from wellcheck import predictions
from wellcheck.errors import InputError
from wellcheck.models import Classifier, ModelDescription, build
from wellcheck.models.network import Network
from wellcheck.predictions import Predictions, predict

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")


def linear(weight: list[list[float]], bias: list[float]) -> Classifier:
    """Images of 1×1×2 pixels in [0, 1] → weight · pixels + bias, with a dropout that only training would notice."""
    classifier = build(ModelDescription("residual_cnn", tuple("abc"), (1, 1, 2)), seed=0)
    head = nn.Linear(2, 3)
    with torch.no_grad():
        head.weight.copy_(torch.tensor(weight))
        head.bias.copy_(torch.tensor(bias))
    classifier.network = Network(nn.Sequential(nn.Dropout(0.9), nn.Flatten()), head)
    return classifier.train()


CLASSIFIER = linear([[1, 0], [0, 1], [0, 0]], [0, 0, 0.5])
IMAGES = np.array([[[[255, 0]]], [[[0, 255]]], [[[0, 0]]], [[[51, 153]]]], np.uint8)
LOGITS = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 0.5], [0.2, 0.6, 0.5]])


def test_the_answers_of_a_linear_classifier() -> None:
    found = predict(CLASSIFIER, IMAGES, device=CPU, title="test")
    wanted = LOGITS - np.log(np.exp(LOGITS).sum(1, keepdims=True))
    np.testing.assert_allclose(found.log_probabilities, wanted, atol=1e-6)
    assert found.log_probabilities.dtype == np.float32
    assert found.labels.tolist() == [0, 1, 2, 1] and found.labels.dtype == np.int64
    np.testing.assert_allclose(found.confidences, np.exp(wanted.max(1)), rtol=1e-5)
    assert found.confidences.dtype == np.float32
    assert found.log_loss(np.array([0, 0, 2, 1])) == pytest.approx(-wanted[[0, 1, 2, 3], [0, 0, 2, 1]].mean(), rel=1e-5)


def test_figures_by_hand() -> None:
    found = Predictions(np.log(np.array([[0.5, 0.25, 0.25], [0.125, 0.75, 0.125]], np.float32)))
    assert found.labels.tolist() == [0, 1]
    np.testing.assert_allclose(found.confidences, [0.5, 0.75])
    assert found.log_loss(np.array([0, 0])) == pytest.approx((math.log(2) + math.log(8)) / 2)


@pytest.mark.parametrize("batch", [1, 3, 4, 5])
def test_the_size_of_a_batch_plays_no_part(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = predict(CLASSIFIER, IMAGES, device=CPU, title="test")
    monkeypatch.setattr(predictions, "BATCH", batch)
    np.testing.assert_allclose(predict(CLASSIFIER, IMAGES, device=CPU, title="test").log_probabilities, whole.log_probabilities, atol=1e-6)


def test_confidences_are_probabilities_even_of_sure_answers() -> None:
    sure = linear([[1e4, 0], [0, 1e4], [0, 0]], [0, 0, 0])
    found = predict(sure, IMAGES, device=CPU, title="test")
    assert np.isfinite(found.log_probabilities).all()
    assert (found.confidences <= 1).all() and (found.confidences >= 1 / 3 - 1e-6).all()
    assert found.log_loss(np.array([1, 1, 1, 1])) == pytest.approx((1e4 + 0 + math.log(3) + 0) / 4, rel=1e-5)


def test_no_images_give_no_answers() -> None:
    found = predict(CLASSIFIER, IMAGES[:0], device=CPU, title="test")
    assert (found.log_probabilities.shape, found.labels.shape, found.confidences.shape) == ((0, 3), (0,), (0,))
    assert found.labels.dtype == np.int64


def test_nothing_is_trained_and_no_image_is_touched() -> None:
    images, weight = IMAGES.copy(), CLASSIFIER.network.get_parameter("head.weight").detach().clone()
    predict(CLASSIFIER, images, device=CPU, title="test")
    assert (images == IMAGES).all() and torch.equal(CLASSIFIER.network.get_parameter("head.weight"), weight)
    assert not CLASSIFIER.training


def test_answers_that_are_no_numbers_are_counted() -> None:
    broken = linear([[1, 0], [0, math.nan], [0, 0]], [0, 0, 0])
    with pytest.raises(InputError, match="asked: the model's answers to 4 of 4 images are no numbers: train it again"):
        predict(broken, IMAGES, device=CPU, title="asked")
