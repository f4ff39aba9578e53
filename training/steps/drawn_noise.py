"""A step's `Draws` as the tensors that its programs take, and as what they are traced for."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import tensorflow as tf

from training.privacy.mechanisms import Draws

# Seeds, coefficients and slot of the `Draws` of one step, inside the graph.
Noise: TypeAlias = "tuple[tf.Tensor, tf.Tensor, tf.Tensor]"


def noise_of(draws: Draws) -> Noise:
    """What `finish` takes."""
    noise = (draws.seeds, draws.coefficients, np.int32(draws.slot))
    return tuple(tf.constant(part) for part in noise)


def noise_specs(draws: Draws) -> tuple[tf.TensorSpec, ...]:
    """Specifications of `Noise` for draws like these."""
    return (
        tf.TensorSpec(draws.seeds.shape, tf.int64),
        tf.TensorSpec(draws.coefficients.shape, tf.float32),
        tf.TensorSpec([], tf.int32),
    )


def memory_specs(draws: Draws) -> tuple[tf.TensorSpec, ...]:
    """Specifications of what `NoiseMemory.remember` takes for draws like these."""
    seeds, coefficients, slot = noise_specs(draws)
    return seeds, coefficients, tf.TensorSpec(draws.feedback.shape, tf.float32), slot
