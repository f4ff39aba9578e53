"""Small real runs: digits, an mlp, a few steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import keras
import numpy as np
import pytest

from configs.schema import (
    DataSettings,
    EvaluationSettings,
    MlpSettings,
    ModelSettings,
    OptimizerSettings,
    PrivacySettings,
    Recipe,
    TrainingSettings,
)


@pytest.fixture(autouse=True)
def process_as_it_was() -> Iterator[None]:
    """Undoes what opening a session sets for the whole process."""
    from tensorflow.python.framework import config

    yield
    config.disable_op_determinism()
    keras.config.set_dtype_policy("float32")


BASE = Recipe(
    data=DataSettings(source="digits", limit=300),
    model=ModelSettings(name="mlp", mlp=MlpSettings(hidden_units=[8], image_size=8, dropout=0.2)),
    training=TrainingSettings(
        steps=10,
        batch_size=40,
        optimizer=OptimizerSettings(learning_rate=0.01),
        seed=7,
    ),
    evaluation=EvaluationSettings(bootstrap_resamples=0),
)
PRIVATE = PrivacySettings(enabled=True, noise_multiplier=0.8)


@pytest.fixture
def recipe() -> Callable[..., Recipe]:
    """Makes a recipe of ten steps from training settings; `privacy` makes it private."""

    def make(
        privacy: PrivacySettings = BASE.privacy,
        model: ModelSettings = BASE.model,
        data: DataSettings = BASE.data,
        **training: Any,
    ) -> Recipe:
        return replace(
            BASE,
            data=data,
            model=model,
            privacy=privacy,
            training=replace(BASE.training, **training),
        )

    return make


def weights_of(model: keras.Model) -> list[np.ndarray]:
    return [np.array(w) for w in model.get_weights()]


def assert_identical(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)
