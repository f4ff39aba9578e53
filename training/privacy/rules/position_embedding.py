"""KerasHub's PositionEmbedding: z[..., t] = P[position of t], so dP[r] sums dz where t is at r.

Positions are 0 ... time-1, the same shifted by `start_index`, or given; the table is broadcast
over the batch and any axes between.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from training.privacy.gradients import GatheredRows, Instantiated
from training.privacy.rules.base import Gradients, Rule, is_trained


class PositionEmbeddingRule(Rule):
    """Any start index, and positions shared or of each example."""

    def gradients(
        self,
        layer: keras.Layer,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        output_gradients: list[tf.Tensor],
    ) -> Gradients:
        table = layer.position_embeddings
        if not is_trained(layer, table):
            return []
        start = kwargs.get("start_index", args[1] if len(args) > 1 else 0)
        positions = kwargs.get("positions", args[2] if len(args) > 2 else None)
        gradient = output_gradients[0]
        batch, (time, width) = gradient.shape[0], gradient.shape[-2:]
        if positions is None:
            if gradient.shape.rank > 3:
                gradient = tf.reduce_sum(gradient, axis=list(range(1, gradient.shape.rank - 2)))
            if isinstance(start, int) and start == 0:
                return [(table, Instantiated(gradient, (table.shape[0] - time, 0)))]
            positions = tf.range(time) + tf.cast(start, tf.int32)
        ids = tf.cast(positions, tf.int32)
        ids = tf.where(ids < 0, ids + table.shape[0], ids)
        # The table's rows were broadcast to the output's shape: so are their numbers.
        ids = tf.reshape(tf.broadcast_to(ids, gradient.shape[:-1]), [batch, -1])
        flat = tf.reshape(gradient, [batch, -1, width])
        return [(table, GatheredRows(ids, flat, table.shape[0]))]
