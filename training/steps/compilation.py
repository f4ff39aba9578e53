"""What of a step XLA compiles: decided here, and asked of the step by all who need to know."""

from __future__ import annotations

from enum import Enum

import tensorflow as tf

from training.strategy import is_tpu


class CompiledPart(Enum):
    """What of a step is handed to XLA."""

    NOTHING = "nothing"
    GRADIENTS = "each replica's gradients"
    STEP = "the whole step"

    @classmethod
    def of(cls, strategy: tf.distribute.Strategy, *, jit_compile: bool) -> CompiledPart:
        """What to compile where the step runs on `strategy`.

        A step over several replicas meets in its middle, which no one program can hold: there each
        replica's gradients are compiled. All that a TPU runs its strategy has compiled, around the
        replicas, so that nothing within may ask for it again.

        Args:
            strategy: Where the step runs.
            jit_compile: Whether the user asks for XLA.
        """
        if not jit_compile or is_tpu(strategy):
            return cls.NOTHING
        return cls.GRADIENTS if strategy.num_replicas_in_sync > 1 else cls.STEP
