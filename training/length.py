"""How long a run is: from a recipe's steps or epochs to optimizer steps."""

from __future__ import annotations

import math
from dataclasses import dataclass

from configs.schema import SettingError, TrainingSettings


@dataclass(frozen=True)
class Length:
    """How long a run is.

    Attributes:
        steps: Optimizer steps in all.
        steps_per_epoch: Optimizer steps of one pass (with Poisson sampling, one expected pass).
    """

    steps: int
    steps_per_epoch: int

    @property
    def epochs(self) -> int:
        return math.ceil(self.steps / self.steps_per_epoch)


def run_length(settings: TrainingSettings, num_examples: int, unit: str = "example") -> Length:
    """Steps of a run over `num_examples` training examples, or users where `unit` is that.

    Raises:
        SettingError: If the recipe names no length, or a batch larger than the data.
    """
    if settings.batch_size > num_examples:
        raise SettingError(
            "training.batch_size",
            settings.batch_size,
            f"at most the {num_examples} training {unit}s",
        )
    per_epoch = math.ceil(num_examples / settings.batch_size)
    if settings.steps is not None:
        return Length(settings.steps, min(per_epoch, settings.steps))
    if settings.epochs is None:
        raise SettingError("training.epochs", None, "training.epochs or training.steps to be set")
    return Length(max(1, round(settings.epochs * per_epoch)), per_epoch)
