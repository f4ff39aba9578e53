"""The sum of clipped per-example gradients of any Keras model, by book-keeping.

One forward pass with taps, one backward pass to the tapped outputs, then per layer a norm and,
once every example's clip factor is known, a weighted sum. No second backward pass and, for the
layers with a rule, no per-example gradients in memory.

Guarantees (what epsilon depends on):
    The returned sum is `sum_i f_i g_i` where `g_i` is the gradient of example i's loss alone and
    `0 <= f_i <= min(1, clipping_norm / |g_i|)`. So adding or removing one example moves it by at
    most `clipping_norm` in L2 norm, up to float32 rounding (tested: relative 1e-5).

==============================  ====================================================
edge case                       result
==============================  ====================================================
masked (padding) example        contributes exactly zero
non-finite gradient or norm     contributes exactly zero; counted in `non_finite`
zero gradient                   contributes zero; factor 1
variable not reached by loss    its sum is zero
==============================  ====================================================

Source: Bu et al. 2023, book-keeping (arXiv:2210.00038); Abadi et al. 2016 (1607.00133).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from training.privacy.gradients import PerExampleGradient, merge
from training.privacy.taps import Sites, Tap, find_sites, tapped_forward

# (labels (batch,), logits (batch, classes)) -> losses (batch,)
PerExampleLoss = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


@dataclass(frozen=True)
class ClippedSum:
    """The clipped gradient sum of one batch, and what was seen on the way.

    Only `gradients` has bounded sensitivity, and only after noise may it leave the engine. The
    rest describes training examples one by one, is not covered by epsilon, and is for tests and
    for the operator's eyes.

    Attributes:
        gradients: float32, one tensor for each of `model.trainable_variables`.
        norms: float32 (batch,), gradient norms before clipping.
        losses: float32 (batch,), zero where masked or left out.
        logits: float32 (batch, classes).
        non_finite: int32 (), examples left out because their gradient was not finite.
    """

    gradients: list[tf.Tensor]
    norms: tf.Tensor
    losses: tf.Tensor
    logits: tf.Tensor
    non_finite: tf.Tensor


def clip_factors(
    squared_norms: tf.Tensor, mask: tf.Tensor, clipping_norm: tf.Tensor | float
) -> tuple[tf.Tensor, tf.Tensor]:
    """Factors min(1, C / norm), zero for masked and for non-finite examples.

    Returns:
        factors, float32 (batch,), and which examples were dropped as non-finite, bool (batch,).
    """
    # Gram matrices can round a vanishing norm to below zero.
    norms = tf.sqrt(tf.maximum(squared_norms, 0.0))
    finite = tf.math.is_finite(squared_norms)
    bound = tf.cast(clipping_norm, tf.float32)
    factors = tf.where(norms > bound, bound / norms, 1.0)
    return tf.where(finite & mask, factors, 0.0), mask & ~finite


def per_example_gradients(
    model: keras.Model,
    loss: PerExampleLoss,
    inputs: Any,
    labels: tf.Tensor,
    mask: tf.Tensor,
    sites: Sites,
) -> tuple[dict[int, PerExampleGradient], tf.Tensor, tf.Tensor]:
    """Factored per-example gradients of every trainable variable.

    Returns:
        Variable id -> gradient (variables the loss does not reach are absent), losses (batch,),
        logits (batch, classes).
    """
    batch_size = mask.shape[0]
    if batch_size is None:
        raise ValueError("The batch size must be static. Received: mask of shape (None,)")
    with tf.GradientTape(watch_accessed_variables=False, persistent=False) as tape:
        outputs, taps = tapped_forward(model, inputs, batch_size, sites, tape.watch)
        logits = tf.cast(outputs, tf.float32)
        losses = loss(labels, logits)
        losses.shape.assert_is_compatible_with([batch_size])
        # `where`, not a product: a padding row may hold anything, even a NaN loss.
        losses = tf.where(mask, losses, 0.0)
        total = tf.reduce_sum(losses)
    flat = [output for tap in taps for output in tap.outputs]
    flat_gradients = iter(tape.gradient(total, flat))
    uses: dict[int, list[PerExampleGradient]] = defaultdict(list)
    for tap in taps:
        gradients = [next(flat_gradients) for _ in tap.outputs]
        for variable, gradient in _gradients_at(tap, gradients):
            uses[id(variable)].append(gradient)
    return {key: merge(parts) for key, parts in uses.items()}, losses, logits


def _gradients_at(tap: Tap, gradients: list[tf.Tensor | None]) -> list:
    if all(gradient is None for gradient in gradients):
        return []  # not on the way to the loss
    dense = [
        tf.zeros_like(output) if gradient is None else tf.convert_to_tensor(gradient)
        for output, gradient in zip(tap.outputs, gradients, strict=True)
    ]
    return tap.rule.gradients(tap.layer, tap.args, tap.kwargs, dense)


def clipped_gradient_sum(
    model: keras.Model,
    loss: PerExampleLoss,
    batch: dict[str, Any],
    clipping_norm: tf.Tensor | float,
    sites: Sites | None = None,
) -> ClippedSum:
    """Sum over a batch of per-example gradients, each clipped to L2 norm `clipping_norm`.

    Args:
        model: Any Keras model of `batch["inputs"]` giving logits.
        loss: Per-example loss; row i may depend on row i only.
        batch: A Batch (`data.contracts`): `inputs`, `labels` (batch,), `mask` bool (batch,).
        clipping_norm: The bound C > 0.
        sites: From `find_sites(model)`, to save finding them at every trace.

    Raises:
        UserError: If the model mixes examples or cannot be tapped; names layer and remedy.
    """
    sites = find_sites(model) if sites is None else sites
    mask = batch["mask"]
    found, losses, logits = per_example_gradients(
        model, loss, batch["inputs"], batch["labels"], mask, sites
    )
    squared = tf.add_n(
        [gradient.squared_norms() for gradient in found.values()] or [tf.zeros_like(losses)]
    )
    factors, bad = clip_factors(squared, mask, clipping_norm)
    unusable = bad | ~mask
    variables = model.trainable_variables
    reached = [id(v) in found for v in variables]

    def sums(gradients: dict[int, PerExampleGradient]) -> list[tf.Tensor]:
        return [
            tf.ensure_shape(gradients[id(v)].weighted_sum(factors), v.shape)
            for v, is_reached in zip(variables, reached, strict=True)
            if is_reached
        ]

    # 0 x NaN is NaN: a batch with a non-finite example takes the slower path that replaces that
    # example's rows by zeros; every other batch does not pay for it.
    needs_zeroing = tf.reduce_any(unusable & ~tf.math.is_finite(squared))
    summed = iter(
        tf.cond(
            needs_zeroing,
            lambda: sums({key: g.zeroed_where(unusable) for key, g in found.items()}),
            lambda: sums(found),
        )
        if any(reached)
        else []
    )
    gradients = [
        next(summed) if is_reached else tf.zeros(v.shape, tf.float32)
        for v, is_reached in zip(variables, reached, strict=True)
    ]
    return ClippedSum(
        gradients=gradients,
        norms=tf.sqrt(tf.maximum(squared, 0.0)),
        losses=tf.where(bad, 0.0, losses),
        logits=logits,
        non_finite=tf.reduce_sum(tf.cast(bad, tf.int32)),
    )
