"""Losses that layers add (`add_loss`): which count for nothing, what to do about others.

The clipped gradient leaves them all out. One that would have changed training is therefore refused:
most couple the batch, like the balancing loss of a mixture of experts, which compares how many
tokens of the whole batch each expert got (Fedus et al. 2021, arXiv:2101.03961), so that no example
has a gradient of its own of it. One that is multiplied by zero changes nothing.
"""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

# What layers call the factor of a loss they add (`router_aux_loss_coef`, of KerasHub's experts).
_COEFFICIENT = "loss_coef"


def counts_for_nothing(loss: tf.Tensor) -> bool:
    """Whether a loss, in the graph being traced, is a constant zero or a product with one."""
    factors = loss.op.inputs if loss.op.type == "Mul" else [loss]
    values = [tf.get_static_value(factor) for factor in factors]
    return any(value is not None and bool(np.all(np.equal(value, 0))) for value in values)


def remedy(layer: keras.Layer | None) -> str:
    """What to do about a loss that `layer` adds, a sentence; None where no layer is to blame."""
    names = [] if layer is None else sorted(name for name in vars(layer) if _COEFFICIENT in name)
    if not names:
        return "Make it part of the per-example loss."
    return (
        f"Set {names[0]} to 0, as an argument where the model is made or as this layer's "
        "attribute, to train without it."
    )
