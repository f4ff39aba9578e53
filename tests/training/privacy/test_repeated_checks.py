"""Checking model after model in one process, as a search does, is no retracing of one function."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.eager.polymorphic_function import polymorphic_function

from tests.training.privacy.naive import cross_entropy
from training.privacy.inspection import probe, problems_of

L = keras.layers
CHECKS = 6  # TensorFlow warns of the fifth


@pytest.fixture
def warned(monkeypatch) -> Iterator[list[str]]:
    """What TensorFlow warns of meanwhile, as in a process that has not warned of anything yet."""
    manager = "_frequent_tracing_detector_manager"
    monkeypatch.setattr(
        polymorphic_function, manager, type(getattr(polymorphic_function, manager))()
    )
    found: list[str] = []
    handler, logger = logging.Handler(), logging.getLogger("tensorflow")
    handler.emit = lambda record: found.append(record.getMessage())  # type: ignore[method-assign]
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING)
    yield found
    logger.removeHandler(handler)
    logger.setLevel(level)


def model_of(width: int) -> keras.Model:
    return keras.Sequential([keras.Input((5,)), L.Dense(width), L.Dense(2)])


def test_repeated_checks_warn_of_no_retracing(warned) -> None:
    generator = np.random.default_rng(4)
    batch = {
        "inputs": tf.constant(generator.normal(size=(3, 5)), tf.float32),
        "labels": tf.constant([0, 1, 0]),
    }
    for width in range(1, CHECKS + 1):
        model = model_of(width)
        assert problems_of(model, cross_entropy) == []
        probe(model, cross_entropy, batch)
    assert warned == []


def test_function_made_anew_in_a_loop_is_warned_of(warned) -> None:
    """What the test above would see."""
    for number in range(CHECKS):
        tf.function(lambda x, number=number: x + number)(tf.constant(1.0))
    assert any("triggered tf.function retracing" in line for line in warned)
