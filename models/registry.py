"""Every model Sterling can build, by name. **Add a model here**, and nowhere else.

A builder is a function `(settings, *, num_classes, modality, input_shape) -> BuiltModel` that
returns a plain functional `keras.Model` from a dict of named inputs to float32 logits. To add one:
write it in a module of its own, give it settings in `configs/schema/model.py`, and name it below.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass

from configs.schema import ModelSettings, SettingError, require
from models.contracts import BuiltModel
from models.seeding import seeded_initializers


@dataclass(frozen=True)
class Entry:
    """Where a builder lies and what it accepts.

    Attributes:
        module: Imported when the model is asked for, because KerasHub takes seconds.
        function: Name of the builder in `module`.
        modalities: Modalities of data that the model takes.
    """

    module: str
    function: str
    modalities: tuple[str, ...]


MODELS: dict[str, Entry] = {
    "bert": Entry("models.bert", "build_bert", ("text",)),
    "resnet50": Entry("models.resnet50", "build_resnet50", ("image",)),
    "mlp": Entry("models.mlp", "build_mlp", ("features", "image")),
    "cnn": Entry("models.cnn", "build_cnn", ("image",)),
}


def build(
    settings: ModelSettings,
    *,
    num_classes: int,
    modality: str,
    input_shape: tuple[int, ...] | None = None,
    seed: int | None = None,
) -> BuiltModel:
    """Builds the model that the settings name, with its starting weights.

    Args:
        settings: The recipe's `model` section.
        num_classes: Number of labels; the width of the logits.
        modality: Modality of the data: `text`, `image` or `features`.
        input_shape: Shape of one feature vector; None for text and images.
        seed: Makes every randomly initialised weight repeatable. None draws them from the
            operating system.

    Returns:
        The model, from a dict of named inputs to logits float32 (batch, num_classes), and the
        preprocessor that makes those inputs from raw examples.

    Raises:
        SettingError: The model does not exist, cannot take this modality, or one of its settings
            does not fit its weights.
        UserError: Its weights cannot be had.
        ValueError: `num_classes` is below 2.
    """
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2. Received: {num_classes}")
    require(settings.name in MODELS, "model.name", settings.name, f"one of {sorted(MODELS)}")
    entry = MODELS[settings.name]
    if modality not in entry.modalities:
        fitting = sorted(name for name, other in MODELS.items() if modality in other.modalities)
        raise SettingError(
            "model.name", settings.name, f"a model for {modality} data, one of {fitting}"
        )
    builder = getattr(importlib.import_module(entry.module), entry.function)
    with seeded_initializers(seed):
        return builder(
            settings, num_classes=num_classes, modality=modality, input_shape=input_shape
        )
