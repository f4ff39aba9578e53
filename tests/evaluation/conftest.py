"""Predictions to measure: plausible ones, and a way to make any."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from evaluation.predictions import Predictions

SEXES = ("Female", "Male")
RACES = ("A", "B", "C", "D")


def make_predictions(
    examples: int = 600, classes: int = 2, seed: int = 0, split: str = "validation"
) -> Predictions:
    """Answers that are right more often than not, by groups that are treated differently."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, examples).astype(np.int32)
    sex = rng.integers(0, 2, examples).astype(np.int32)
    race = np.minimum(rng.geometric(0.6, examples) - 1, 3).astype(np.int32)
    logits = rng.normal(size=(examples, classes))
    logits[np.arange(examples), labels] += 1.0
    logits[:, -1] += 0.8 * sex - 0.4
    return Predictions(
        logits=logits.astype(np.float32),
        labels=labels,
        label_names=tuple(f"label {index}" for index in range(classes)),
        groups={"sex": sex, "race": race},
        group_names={"sex": SEXES, "race": RACES},
        ids=np.arange(examples),
        split=split,
    )


def from_answers(
    labels: list[int] | np.ndarray,
    answers: list[int] | np.ndarray,
    groups: list[int] | np.ndarray,
    classes: int = 2,
    group_names: tuple[str, ...] | None = None,
    split: str = "test",
) -> Predictions:
    """Predictions whose answers are exactly `answers`, with one attribute `group`."""
    groups = np.asarray(groups, np.int32)
    names = group_names or tuple(f"g{index}" for index in range(int(groups.max()) + 1))
    return Predictions(
        logits=np.eye(classes, dtype=np.float32)[np.asarray(answers)] * 3,
        labels=np.asarray(labels, np.int32),
        label_names=tuple(f"label {index}" for index in range(classes)),
        groups={"group": groups},
        group_names={"group": names},
        ids=np.arange(len(groups)),
        split=split,
    )


@pytest.fixture
def predictions() -> Predictions:
    return make_predictions()


@pytest.fixture
def predict() -> Callable[..., Predictions]:
    return make_predictions
