"""Settings of the `training` section: how long, how fast, with which optimizer, on what."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import Any, Literal, Optional

from configs.schema.errors import require


@dataclass(frozen=True)
class OptimizerSettings:
    """Any Keras optimizer and schedule, by name.

    Attributes:
        name: Keras optimizer class name (`Adam`, `AdamW`, `SGD`, `Lion` ...).
        learning_rate: Peak learning rate.
        schedule: `constant`, or a Keras schedule: `cosine` and `linear` decay to
            `final_fraction` of the peak over the whole run.
        warmup_fraction: Share of the steps over which the rate rises linearly from 0.
        final_fraction: Rate at the end, as a share of the peak.
        options: Further arguments of the optimizer (`momentum: 0.9`, `weight_decay: 0.01`).
    """

    name: str = "Adam"
    learning_rate: float = 1e-3
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    warmup_fraction: float = 0.0
    final_fraction: float = 0.0
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        prefix = "training.optimizer"
        require(
            0 < self.learning_rate < inf,
            f"{prefix}.learning_rate",
            self.learning_rate,
            "a number > 0",
        )
        for name in ("warmup_fraction", "final_fraction"):
            value = getattr(self, name)
            require(0.0 <= value <= 1.0, f"{prefix}.{name}", value, "a share in [0, 1]")


@dataclass(frozen=True)
class TrainingSettings:
    """How to train.

    Attributes:
        epochs: Passes over the training set (with Poisson sampling: expected passes). Give this
            or `steps`.
        steps: Optimizer steps, instead of `epochs`.
        batch_size: Examples per optimizer step (with Poisson sampling: their expected number);
            users, with `privacy.unit: user`.
        physical_batch_size: Examples per forward and backward pass; a smaller one than
            `batch_size` accumulates gradients. None takes `batch_size`, and with privacy a little
            more, so that most Poisson draws fit.
        optimizer: Optimizer and learning-rate schedule.
        class_weights: Weight of each class in the loss, by label name.
        l2: L2 penalty on kernels (seen by no example: added after the noise).
        early_stopping_patience: Stop after this many epochs without a better validation loss and
            restore the best weights; none never stops early.
        strategy: How training is spread over devices.
        precision: Keras dtype policy. Clip factors, sums and noise are float32 in any case.
        jit_compile: Compile the step with XLA.
        steps_per_execution: Optimizer steps taken in one call of one TensorFlow function. They
            are the same steps; callbacks, checkpoints and signals are served between calls.
        seed: Makes a run reproducible. None draws every random choice from the operating
            system; with privacy only then is the noise secret.
        checkpoint_every: Optimizer steps between checkpoints; none saves at each epoch's end.
        keep_checkpoints: Newest checkpoints kept.
        cache_frozen_gb: Where the model starts with frozen layers, compute them once per example
            and keep the activations in memory, if they take at most this many GB; 0 never does.
        callbacks: Further Keras callbacks by name, with their arguments
            (`{ReduceLROnPlateau: {patience: 1}}`).
        profile: Write a profiler trace of a few steady steps beside the TensorBoard logs.
    """

    epochs: Optional[float] = None
    steps: Optional[int] = None
    batch_size: int = 32
    physical_batch_size: Optional[int] = None
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    class_weights: Optional[dict[str, float]] = None
    l2: float = 0.0
    early_stopping_patience: Optional[int] = None
    strategy: Literal["auto", "one_device", "mirrored", "multi_worker", "tpu"] = "auto"
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    jit_compile: bool = False
    steps_per_execution: int = 1
    seed: Optional[int] = None
    checkpoint_every: Optional[int] = None
    keep_checkpoints: int = 2
    cache_frozen_gb: float = 6.0
    callbacks: dict[str, dict[str, Any]] = field(default_factory=dict)
    profile: bool = False

    def __post_init__(self) -> None:
        require(
            (self.epochs is None) or (self.steps is None),
            "training.steps",
            self.steps,
            "either training.epochs or training.steps, not both (--training.steps=null counts "
            "epochs)",
        )
        require(
            self.epochs is None or 0 < self.epochs < inf,
            "training.epochs",
            self.epochs,
            "a number > 0",
        )
        for name in (
            "steps",
            "batch_size",
            "physical_batch_size",
            "steps_per_execution",
            "checkpoint_every",
            "keep_checkpoints",
            "early_stopping_patience",
        ):
            value = getattr(self, name)
            require(value is None or value >= 1, f"training.{name}", value, "a whole number >= 1")
        require(
            self.seed is None or self.seed >= 0, "training.seed", self.seed, "a whole number >= 0"
        )
        require(0 <= self.l2 < inf, "training.l2", self.l2, "a number >= 0")
