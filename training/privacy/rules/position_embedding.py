"""KerasHub's PositionEmbedding: z = P[:time] broadcast over the batch, so dP[:time] = dz."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from training.privacy.gradients import Instantiated
from training.privacy.rules.base import Gradients, Rule, is_trained
from training.privacy.rules.fallback import FallbackRule


class PositionEmbeddingRule(Rule):
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
        (gradient,) = output_gradients
        start = kwargs.get("start_index", args[1] if len(args) > 1 else 0)
        positions = kwargs.get("positions", args[2] if len(args) > 2 else None)
        from_the_start = isinstance(start, int) and start == 0 and positions is None
        if gradient.shape.rank != 3 or not from_the_start:
            return FallbackRule().gradients(layer, args, kwargs, output_gradients)
        length, time = table.shape[0], gradient.shape[1]
        return [(table, Instantiated(gradient, (length - time, 0)))]
