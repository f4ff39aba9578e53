"""The settings dataclasses: checked as they are made, free of TensorFlow."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from configs.schema import (
    OptimizerSettings,
    PrivacySettings,
    Recipe,
    SettingError,
    TrainingSettings,
    UserError,
)


@pytest.mark.parametrize(
    ("section", "values", "key"),
    [
        (PrivacySettings, {"epsilon": 0.0}, "privacy.epsilon"),
        (PrivacySettings, {"epsilon": float("nan")}, "privacy.epsilon"),
        (PrivacySettings, {"noise_multiplier": float("inf")}, "privacy.noise_multiplier"),
        (PrivacySettings, {"clipping_norm": -1.0}, "privacy.clipping_norm"),
        (PrivacySettings, {"memory_budget": -0.1}, "privacy.memory_budget"),
        (PrivacySettings, {"delta": 0.0}, "privacy.delta"),
        (PrivacySettings, {"enabled": True}, "privacy.epsilon"),
        (TrainingSettings, {"epochs": 0.0}, "training.epochs"),
        (TrainingSettings, {"epochs": 1.0, "steps": 1}, "training.steps"),
        (TrainingSettings, {"physical_batch_size": 0}, "training.physical_batch_size"),
        (TrainingSettings, {"checkpoint_every": 0}, "training.checkpoint_every"),
        (TrainingSettings, {"l2": -0.1}, "training.l2"),
        (OptimizerSettings, {"learning_rate": 0.0}, "training.optimizer.learning_rate"),
        (OptimizerSettings, {"warmup_fraction": 1.5}, "training.optimizer.warmup_fraction"),
    ],
)
def test_impossible_value_is_refused_by_key(section, values, key):
    with pytest.raises(SettingError) as error:
        section(**values)
    assert error.value.key == key
    assert str(error.value).startswith(f"{key}: expected ")
    assert isinstance(error.value, UserError)
    assert isinstance(error.value, ValueError)


def test_disabled_privacy_needs_no_epsilon():
    assert PrivacySettings().epsilon is None


def test_recipes_cannot_be_changed_and_compare_by_value():
    assert Recipe() == Recipe()
    with pytest.raises(FrozenInstanceError):
        Recipe().privacy = PrivacySettings(epsilon=1.0)


def test_settings_and_commands_import_nothing_heavy():
    code = (
        "import sys, configs.schema, scripts.cli, scripts.train, scripts.evaluate, scripts.export\n"
        "print([name for name in ('tensorflow', 'keras', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"
