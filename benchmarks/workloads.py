"""What is timed: two models, a fixed batch for each, and one function that runs a whole step.

MiniLM-L6 BERT with all weights training (dropout 0, Adam) and ResNet50 with group normalization
(SGD with momentum), as in the comparisons with Opacus, JAX-Privacy and TF-Privacy.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

MODELS = ("bert", "resnet50")
MODES = ("plain", "private", "keras")


@dataclass(frozen=True)
class Workload:
    """A model and the shape of its batches.

    Attributes:
        model: "bert" or "resnet50".
        batch: Examples in a physical batch.
        size: Tokens, or pixels a side.
        xla: Whether steps are compiled with XLA.
        memory_budget: `privacy.memory_budget`, GB; none for its default.
        precision: `training.precision`. Float32 is whole on all sides, as private steps must have
            it: a GPU's plain step could be quicker with TensorFloat-32.
    """

    model: str
    batch: int
    size: int
    xla: bool = False
    memory_budget: float | None = None
    precision: str = "float32"

    def build(self) -> Any:
        """The model, a `models.BuiltModel`."""
        import keras

        from configs.schema import BertSettings, ModelSettings, ResNet50Settings
        from models import build
        from training.privacy.half_precision import use_whole_float32

        use_whole_float32()
        keras.config.set_dtype_policy(self.precision)
        if self.model == "bert":
            bert = BertSettings(trainable="all", sequence_length=self.size, dropout=0.0)
            settings = ModelSettings(name="bert", bert=bert)
            return build(settings, num_classes=2, modality="text", seed=0)
        resnet50 = ResNet50Settings(normalization="group", image_size=self.size)
        settings = ModelSettings(name="resnet50", resnet50=resnet50)
        return build(settings, num_classes=10, modality="image", seed=0)

    def examples(self, built: Any) -> dict[str, Any]:
        """One Batch of random examples: what a step costs does not depend on their values."""
        import numpy as np
        import tensorflow as tf

        rng = np.random.default_rng(0)
        if self.model == "bert":
            shape = (self.batch, self.size)
            inputs = {
                "token_ids": rng.integers(1000, 30000, shape),
                "padding_mask": np.ones(shape),
                "segment_ids": np.zeros(shape),
            }
        else:
            inputs = {"image": rng.normal(size=(self.batch, self.size, self.size, 3))}
        classes = built.model.output.shape[-1]
        return {
            "inputs": {
                name: tf.constant(inputs[name], tensor.dtype)
                for name, tensor in built.model.input.items()
            },
            "labels": tf.constant(rng.integers(0, classes, self.batch), tf.int32),
            "mask": tf.ones([self.batch], tf.bool),
        }

    def optimizer(self) -> Any:
        import keras

        if self.model == "bert":
            return keras.optimizers.Adam(1e-5)
        return keras.optimizers.SGD(1e-4, momentum=0.9)

    def stepper(self, mode: str, built: Any, physical_batches: int = 1) -> Callable[[], None]:
        """A function that runs one whole step, until the device has done it.

        That is forward, backward, clip, noise and optimizer.

        Args:
            mode: "plain", "private", or "keras" for `Model.train_on_batch`.
            built: From `build`; its weights are trained further.
            physical_batches: How many physical batches make the logical one.
        """
        import tensorflow as tf

        from training.randomness import Randomness

        # A GPU's calls return before they are done.
        await_devices = tf.test.experimental.sync_devices
        batch = self.examples(built)
        if mode == "keras":
            return self._keras_stepper(built, batch)
        step = self.step(mode, built, physical_batches)
        randomness, numbers = Randomness.from_seed(1), itertools.count()

        def run() -> None:
            for _ in range(physical_batches - 1):
                step.add(batch)
            draws = step.draws(next(numbers), randomness)
            step.finish(batch, draws, accumulated=physical_batches > 1)
            await_devices()

        return run

    def step(self, mode: str, built: Any, physical_batches: int = 1, strategy: Any = None) -> Any:
        """A `training.steps.TrainingStep` of the given mode; None is the default strategy."""
        import tensorflow as tf

        from training.losses import cross_entropy
        from training.privacy.plan import PrivacyPlan
        from training.steps import PlainStep, PrivateStep

        loss = cross_entropy([str(i) for i in range(built.model.output.shape[-1])])
        strategy = strategy or tf.distribute.get_strategy()
        with strategy.scope():
            optimizer = self.optimizer()
        parts = (built.model, loss, optimizer, strategy)
        common: dict[str, Any] = {
            "accumulates": physical_batches > 1,
            "jit_compile": self.xla,
        }
        if mode == "plain":
            return PlainStep(*parts, **common)
        plan = PrivacyPlan.dp_sgd(
            num_examples=10**6,
            batch_size=physical_batches * self.batch,
            steps=1000,
            clipping_norm=1.0,
            noise_multiplier=1.0,
            delta=1e-7,
        )
        budget = self.memory_budget
        memory_bytes = None if budget is None else budget * 1e9
        return PrivateStep(*parts, plan=plan, memory_bytes=memory_bytes, **common)

    def _keras_stepper(self, built: Any, batch: dict[str, Any]) -> Callable[[], None]:
        import keras

        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        built.model.compile(self.optimizer(), loss, jit_compile=self.xla)
        # Which waits by itself: it returns the loss as a number.
        return lambda: built.model.train_on_batch(batch["inputs"], batch["labels"])
