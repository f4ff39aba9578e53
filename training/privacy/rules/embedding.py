"""Embedding: z_t = E[id_t], so the gradient of row r is dz summed over the t with id_t = r.

A reversible (tied) embedding is also called in reverse, z = h E^T: that use's gradient of E is
dz^T h, and `training.privacy.merging.merge` adds the cross terms of the two.

With LoRA (`enable_lora`, Hu et al. 2021), E = E0 + s A B with E0 frozen: row id_t of A receives
s dz_t B^T, and dB = s A[id]^T dz.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf

from training.privacy.gradients import GatheredRows, MatrixLayout, OuterProducts, plain_layout
from training.privacy.rules.base import Gradients, Rule, call_inputs, is_trained
from training.privacy.rules.dense import as_sequence


def _positive_ids(ids: tf.Tensor, rows: int) -> tf.Tensor:
    """int32 (batch, time). keras.ops.take counts negative ids from the end; segment sums do not."""
    flat = tf.reshape(tf.cast(ids, tf.int32), [ids.shape[0], -1])
    return tf.where(flat < 0, flat + rows, flat)


class EmbeddingRule(Rule):
    """Embedding, with LoRA or without."""

    def applies_to(self, layer: keras.Layer) -> bool:
        return layer.quantization_mode is None

    def gradients(
        self,
        layer: keras.Layer,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        output_gradients: list[tf.Tensor],
    ) -> Gradients:
        table = layer._embeddings
        rows, width = table.shape
        ids = _positive_ids(call_inputs(args, kwargs), rows)
        outer = tf.reshape(output_gradients[0], [ids.shape[0], -1, width])
        found: Gradients = []
        if is_trained(layer, table):
            found.append((table, GatheredRows(ids, outer, rows)))
        if layer.lora_enabled:
            scale = layer.lora_alpha / layer.lora_rank
            a, b = layer.lora_embeddings_a, layer.lora_embeddings_b
            outer = tf.cast(outer, tf.float32)
            inner = scale * tf.matmul(outer, b.value, transpose_b=True)
            low = scale * tf.gather(a.value, ids)  # (batch, time, rank)
            found.append((a, GatheredRows(ids, inner, rows)))
            found.append((b, OuterProducts(low, outer, plain_layout(*b.shape))))
        return found


class ReversibleEmbeddingRule(EmbeddingRule):
    """A table looked up, and in reverse used as a matrix; a cap on the logits comes after it."""

    def applies_to(self, layer: keras.Layer) -> bool:
        return super().applies_to(layer) and not layer.lora_enabled

    @contextmanager
    def without_activation(
        self, layer: keras.Layer, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Iterator[Callable[[Any], Any]]:
        """Takes the logits' soft cap, cap * tanh(z / cap), for an activation."""
        cap = getattr(layer, "logit_soft_cap", None)
        if cap is None or not _is_reverse(args, kwargs):
            yield lambda outputs: outputs
            return
        layer.__dict__["logit_soft_cap"] = None
        try:
            yield lambda logits: tf.tanh(logits / cap) * cap
        finally:
            layer.__dict__["logit_soft_cap"] = cap

    def gradients(
        self,
        layer: keras.Layer,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        output_gradients: list[tf.Tensor],
    ) -> Gradients:
        if not _is_reverse(args, kwargs):
            return super().gradients(layer, args, kwargs, output_gradients)
        inputs = as_sequence(call_inputs(args, kwargs))
        outer = as_sequence(output_gradients[0])
        if layer.tie_weights:
            table = layer._embeddings
            rows, width = table.shape
            layout = MatrixLayout((width, rows), (1, 0))
        else:
            table = layer.reverse_embeddings
            layout = plain_layout(*table.shape)
        if not is_trained(layer, table):
            return []
        return [(table, OuterProducts(inputs, outer, layout))]


def _is_reverse(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    return bool(kwargs.get("reverse", args[1] if len(args) > 1 else False))
