"""Any Keras optimizer and learning-rate schedule, by name."""

from __future__ import annotations

import keras

from configs.schema import OptimizerSettings, SettingError

_SCHEDULES = keras.optimizers.schedules


def build_schedule(
    settings: OptimizerSettings, steps: int
) -> float | keras.optimizers.schedules.LearningRateSchedule:
    """The learning rate over `steps` optimizer steps."""
    peak = settings.learning_rate
    warmup = round(settings.warmup_fraction * steps)
    if settings.schedule == "constant" and warmup == 0:
        return peak
    if settings.schedule == "cosine":
        return _SCHEDULES.CosineDecay(
            0.0 if warmup else peak,
            max(1, steps - warmup),
            alpha=settings.final_fraction,
            warmup_target=peak if warmup else None,
            warmup_steps=warmup,
        )
    final = peak * (settings.final_fraction if settings.schedule == "linear" else 1.0)
    return WarmupThenLinear(peak, final, warmup, steps)


@keras.saving.register_keras_serializable(package="sterling")
class WarmupThenLinear(keras.optimizers.schedules.LearningRateSchedule):
    """Rises linearly from 0 to `peak` over `warmup` steps, then runs linearly to `final`.

    Keras has each half (`CosineDecay`'s warm-up, `PolynomialDecay`) but not the two together.
    """

    def __init__(self, peak: float, final: float, warmup: int, steps: int):
        self.peak, self.final, self.warmup, self.steps = peak, final, warmup, steps

    def __call__(self, step: int) -> keras.KerasTensor:
        """The rate at `step`, float32 ()."""
        now = keras.ops.cast(step, "float32")
        rising = self.peak * now / max(1, self.warmup)
        share = (now - self.warmup) / max(1, self.steps - self.warmup)
        falling = self.peak + (self.final - self.peak) * keras.ops.clip(share, 0.0, 1.0)
        return keras.ops.where(now < self.warmup, rising, falling)

    def get_config(self) -> dict[str, float]:
        """The constructor's arguments."""
        return {
            "peak": self.peak,
            "final": self.final,
            "warmup": self.warmup,
            "steps": self.steps,
        }


def build_optimizer(settings: OptimizerSettings, steps: int) -> keras.optimizers.Optimizer:
    """Builds the optimizer of the recipe.

    Raises:
        SettingError: If Keras has no optimizer of that name, or it refuses an option.
    """
    cls = getattr(keras.optimizers, settings.name, None)
    if not (isinstance(cls, type) and issubclass(cls, keras.optimizers.Optimizer)):
        raise SettingError(
            "training.optimizer.name", settings.name, "a Keras optimizer class (Adam, SGD ...)"
        )
    try:
        return cls(learning_rate=build_schedule(settings, steps), **settings.options)
    except (TypeError, ValueError) as error:
        raise SettingError(
            "training.optimizer.options",
            settings.options,
            f"options that keras.optimizers.{settings.name} takes ({error})",
        ) from error
