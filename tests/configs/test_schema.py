"""The settings dataclasses: checked as they are made, free of TensorFlow."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from configs.schema import (
    BertSettings,
    ClippingGroup,
    ClippingSettings,
    DataSettings,
    EvaluationSettings,
    ImageFolderSettings,
    OptimizerSettings,
    PrivacySettings,
    Recipe,
    SettingError,
    TableSettings,
    TfdsSettings,
    TrainingSettings,
    UserError,
)
from configs.schema.evaluation import CounterfactualSettings
from scripts.wording import settings_of


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


@pytest.mark.parametrize(
    ("section", "values", "key"),
    [
        (TableSettings, {"groups": ["sex", "sex"]}, "data.table.groups"),
        (TableSettings, {"features": ["age", "pay", "age"]}, "data.table.features"),
        (ImageFolderSettings, {"groups": ["sex", "sex"]}, "data.image_folder.groups"),
        (TfdsSettings, {"groups": ["sex", "sex"]}, "data.tfds.groups"),
        (DataSettings, {"label_names": ["no", "yes", "no"]}, "data.label_names"),
        (EvaluationSettings, {"attributes": ["sex", "sex"]}, "evaluation.attributes"),
        (BertSettings, {"lora_projections": ["key", "key"]}, "model.bert.lora_projections"),
        (
            ClippingSettings,
            {"method": "groups", "groups": [ClippingGroup("*"), ClippingGroup("*")]},
            "privacy.clipping.groups",
        ),
        (
            CounterfactualSettings,
            {"templates": {"sex": ["a {text}", "a {text}"]}},
            "evaluation.counterfactual.templates.sex",
        ),
    ],
)
def test_name_that_stands_twice_in_a_list_is_refused_by_key_and_value(section, values, key):
    with pytest.raises(SettingError) as error:
        section(**values)
    assert error.value.key == key
    assert len(error.value.value) > len(set(error.value.value))
    assert str(error.value).startswith(f"{key}: expected ")


def test_every_list_of_names_in_a_recipe_refuses_one_that_stands_twice():
    """The test above names them all: a list added to the schema is to be added there."""
    lists = [key for key, kind in settings_of().items() if "list" in str(kind)]
    assert sorted(lists) == [
        "data.image_folder.groups",
        "data.label_names",
        "data.table.features",
        "data.table.groups",
        "data.tfds.groups",
        "evaluation.attributes",
        "evaluation.counterfactual.templates",
        "model.bert.lora_projections",
        "model.cnn.filters",  # widths, which may be alike
        "model.mlp.hidden_units",  # likewise
        "privacy.clipping.groups",
    ]


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
