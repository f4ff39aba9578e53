"""PReLU: z = max(x, 0) - alpha max(-x, 0), so d(alpha) = -max(-x, 0) dz, summed where shared.

Source: He et al. 2015 (arXiv:1502.01852).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from training.privacy.gradients import Instantiated
from training.privacy.rules.base import Gradients, Rule, call_inputs, is_trained, reduce_to_shape


class PReLURule(Rule):
    """Any shared axes."""

    def gradients(
        self,
        layer: keras.Layer,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        output_gradients: list[tf.Tensor],
    ) -> Gradients:
        if not is_trained(layer, layer.alpha):
            return []
        inputs = tf.cast(call_inputs(args, kwargs), tf.float32)
        slopes = -tf.nn.relu(-inputs) * tf.cast(output_gradients[0], tf.float32)
        return [(layer.alpha, Instantiated(reduce_to_shape(slopes, tuple(layer.alpha.shape))))]
