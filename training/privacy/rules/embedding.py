"""Embedding: z_t = E[id_t], so the gradient of row r is dz summed over the t with id_t = r.

A reversible (tied) embedding is also called in reverse, z = h E^T: that use's gradient of E is
dz^T h, and `training.privacy.gradients.merge` adds the cross terms of the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from training.privacy.gradients import GatheredRows, MatrixLayout, OuterProducts, plain_layout
from training.privacy.rules.base import Gradients, Rule, is_trained
from training.privacy.rules.dense import as_sequence


class EmbeddingRule(Rule):
    def applies_to(self, layer: keras.Layer) -> bool:
        return layer.quantization_mode is None and not layer.lora_enabled

    def gradients(
        self,
        layer: keras.Layer,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        output_gradients: list[tf.Tensor],
    ) -> Gradients:
        ids = args[0] if args else kwargs["inputs"]
        (gradient,) = output_gradients
        table = layer.embeddings
        if not is_trained(layer, table):
            return []
        rows, width = table.shape
        batch = ids.shape[0]
        flat_ids = tf.reshape(tf.cast(ids, tf.int32), [batch, -1])
        # keras.ops.take counts negative ids from the end; segment sums do not.
        flat_ids = tf.where(flat_ids < 0, flat_ids + rows, flat_ids)
        flat = tf.reshape(gradient, [batch, -1, width])
        return [(table, GatheredRows(flat_ids, flat, rows))]


class ReversibleEmbeddingRule(EmbeddingRule):
    def applies_to(self, layer: keras.Layer) -> bool:
        return super().applies_to(layer) and not getattr(layer, "logit_soft_cap", None)

    def gradients(
        self,
        layer: keras.Layer,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        output_gradients: list[tf.Tensor],
    ) -> Gradients:
        reverse = kwargs.get("reverse", args[1] if len(args) > 1 else False)
        if not reverse:
            return super().gradients(layer, args, kwargs, output_gradients)
        inputs = as_sequence(args[0] if args else kwargs["inputs"])
        gradient = as_sequence(output_gradients[0])
        if layer.tie_weights:
            table = layer.embeddings
            rows, width = table.shape
            layout = MatrixLayout((width, rows), (1, 0))
        else:
            table = layer.reverse_embeddings
            layout = plain_layout(*table.shape)
        if not is_trained(layer, table):
            return []
        return [(table, OuterProducts(inputs, gradient, layout))]
