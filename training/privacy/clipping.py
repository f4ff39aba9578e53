"""The sum of clipped per-example gradients of any Keras model.

From the factored gradients that book-keeping gives (`training.privacy.book_keeping`): per layer a
norm and, once every example's clip factor is known, a weighted sum. No second backward pass and,
for the layers with a rule, no per-example gradients in memory.

Guarantees (what epsilon depends on):
    The returned sum is `sum_i f_i g_i` where `g_i` is the gradient of example i's loss alone and
    the factors `f_i >= 0`, one a group of variables, leave `|f_i g_i| <= clipping_norm` over all
    variables together. So adding or removing one example moves the sum by at most `clipping_norm`
    in L2 norm, up to float32 rounding (tested: relative 1e-5). With several rows a record, all of
    this holds of records in place of examples.

==============================  ====================================================
edge case                       result
==============================  ====================================================
masked (padding) example        contributes exactly zero
non-finite gradient or norm     contributes exactly zero; counted in `non_finite`
overflow in float16             is such a gradient
zero gradient                   contributes zero
variable not reached by loss    its sum is zero; it takes up no group's bound but its own
record with padding rows        its other rows count
record of padding rows only     contributes exactly zero
==============================  ====================================================

Source: Abadi et al. 2016 (arXiv:1607.00133); Bu et al. 2023, book-keeping (2210.00038).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from training.privacy.book_keeping import BookKept, per_example_gradients
from training.privacy.book_keeping import PerExampleLoss as PerExampleLoss
from training.privacy.clip_methods import ClipMethod, FlatClipping, Grouping
from training.privacy.clip_methods.base import hard_factors
from training.privacy.gradients import PerExampleGradient
from training.privacy.half_precision import use_whole_float32
from training.privacy.norms import named, norms_of
from training.privacy.sites import Sites, find_sites


@dataclass(frozen=True)
class ClippedSum:
    """The clipped gradient sum of one batch, and what was seen on the way.

    Only `gradients` has bounded sensitivity, and only after noise may it leave the engine. The
    rest describes training examples one by one, is not covered by epsilon, and is for tests and
    for the operator's eyes.

    Attributes:
        gradients: float32, one tensor for each of `model.trainable_variables`.
        norms: float32 (records,), gradient norms over all variables before clipping.
        relative_norms: float32 (records,), norms over those beyond which they are cut; the largest
            where variables are bounded by groups. Above 1 is who was cut.
        used: bool (records,), whether the record is part of the sum: it has a real row and a
            finite gradient.
        losses: float32 (batch,), zero where masked or left out.
        logits: float32 (batch, classes), or a nest of such where the model has several outputs.
        non_finite: int32 (), real rows left out because their record's gradient was not finite.
    """

    gradients: list[tf.Tensor]
    norms: tf.Tensor
    relative_norms: tf.Tensor
    used: tf.Tensor
    losses: tf.Tensor
    logits: Any
    non_finite: tf.Tensor


def clip_factors(
    squared_norms: tf.Tensor,
    mask: tf.Tensor,
    bounds: tf.Tensor | float,
    factors: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] = hard_factors,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Each record's factors, zero for masked and for non-finite records.

    Args:
        squared_norms: float32 (records,) or (records, groups).
        mask: bool (records,), False for padding.
        bounds: The bound, or float32 (groups,).
        factors: From norms and bounds to factors; min(1, bound / norm) if not given.

    Returns:
        Factors, float32 of the shape of `squared_norms`, and which records were dropped as
        non-finite, bool (records,).
    """
    # Gram matrices can round a vanishing norm to below zero.
    norms = tf.sqrt(tf.maximum(squared_norms, 0.0))
    finite = tf.math.is_finite(squared_norms)
    used = mask & (finite if finite.shape.rank == 1 else tf.reduce_all(finite, axis=1))
    found = factors(norms, tf.cast(bounds, tf.float32))
    kept = used if found.shape.rank == 1 else used[:, None]
    return tf.where(kept, found, 0.0), mask & ~used


def clipped_gradient_sum(
    model: keras.Model,
    loss: PerExampleLoss,
    batch: dict[str, Any],
    clipping: ClipMethod | tf.Tensor | float,
    sites: Sites | None = None,
    *,
    rows_per_record: int = 1,
    memory_bytes: float | None = None,
) -> ClippedSum:
    """Sum over a batch of per-example gradients, each clipped.

    Sets TensorFlow, for the whole process, to compute float32 whole where a GPU or a TPU would
    round operands (`half_precision.use_whole_float32`): the bound rests on it.

    Args:
        model: Any Keras model of `batch["inputs"]` giving logits.
        loss: Per-example loss; row i may depend on row i only.
        batch: A Batch (`data.contracts`): `inputs`, `labels` (batch,), `mask` bool (batch,); or
            (records, rows), which says which rows are one record's.
        clipping: The bound C > 0 on the L2 norm over all trainable variables together; or a
            method (`training.privacy.clip_methods`), whose `clipping_norm` is the bound.
        sites: From `find_sites(model)`, to save finding them at every trace.
        rows_per_record: Rows that belong to one record (a person with several examples) and are
            bounded together: rows 0 to k-1 are the first record, masked where it has fewer. Where
            the mask's shape says so, that holds.
        memory_bytes: Most that gradients kept between norm and sum may take; none as in
            `training.privacy.norms.within_memory`. It trades time for memory, nothing else.

    Raises:
        UserError: If the model mixes examples or cannot be tapped; names layer and remedy.
        SettingError: If the method does not fit the model's variables.
        ValueError: If a record would be parted.
    """
    use_whole_float32()
    sites = find_sites(model) if sites is None else sites
    variables = model.trainable_variables
    method, bound = _method(clipping)
    grouping = method.grouping([v.path for v in variables])
    mask, rows_per_record = _by_rows(batch["mask"], rows_per_record)
    kept = per_example_gradients(
        model, loss, batch["inputs"], batch["labels"], mask, sites, rows_per_record, memory_bytes
    )
    real = tf.reduce_any(tf.reshape(mask, [-1, rows_per_record]), axis=1)
    squared = _squared_norms(kept, variables, grouping, tf.zeros_like(real, tf.float32))
    bounds = tf.cast(bound, tf.float32) * tf.constant(grouping.shares, tf.float32)
    factors, bad = clip_factors(squared, real, bounds, method.factors)
    unusable = bad | ~real
    whole = tf.reduce_sum(squared, axis=1)
    # 0 x NaN is NaN: a batch with a non-finite example takes the slower path that replaces that
    # example's rows by zeros; every other batch does not pay for it.
    needs_zeroing = tf.reduce_any(unusable & ~tf.math.is_finite(whole))
    gradients = _weighted_sums(
        kept.gradients, variables, grouping, factors, unusable, needs_zeroing
    )
    relative = tf.sqrt(tf.maximum(squared, 0.0)) / method.limits(bounds)
    bad_rows = mask & tf.repeat(bad, rows_per_record)
    return ClippedSum(
        gradients=gradients,
        norms=tf.sqrt(tf.maximum(whole, 0.0)),
        relative_norms=tf.reduce_max(relative, axis=1),
        used=real & ~bad,
        losses=tf.where(bad_rows, 0.0, kept.losses),
        logits=kept.logits,
        non_finite=tf.reduce_sum(tf.cast(bad_rows, tf.int32)),
    )


def _weighted_sums(
    found: dict[int, PerExampleGradient],
    variables: list[keras.Variable],
    grouping: Grouping,
    factors: tf.Tensor,
    unusable: tf.Tensor,
    needs_zeroing: tf.Tensor,
) -> list[tf.Tensor]:
    """Sums over records of factor times gradient, one a variable; zeros where none was found.

    Args:
        found: Variable id -> every record's gradient.
        variables: The trainable ones.
        grouping: Which group's factors are a variable's.
        factors: float32 (records, groups), zero where `unusable`.
        unusable: bool (records,), records that may hold anything.
        needs_zeroing: bool (), whether any of them holds what zero times it is not zero.
    """
    weights = tf.unstack(factors, axis=1)
    reached = [id(v) in found for v in variables]

    def sums(gradients: dict[int, PerExampleGradient]) -> list[tf.Tensor]:
        totals = []
        for v, group in zip(variables, grouping.group_of, strict=True):
            if id(v) in found:
                with named("sums", v.path):
                    total = gradients[id(v)].weighted_sum(weights[group])
                totals.append(tf.ensure_shape(total, v.shape))
        return totals

    summed = iter(
        tf.cond(
            needs_zeroing,
            lambda: sums({key: g.zeroed_where(unusable) for key, g in found.items()}),
            lambda: sums(found),
        )
        if any(reached)
        else []
    )
    return [
        next(summed) if is_reached else tf.zeros(v.shape, tf.float32)
        for v, is_reached in zip(variables, reached, strict=True)
    ]


def _by_rows(mask: tf.Tensor, rows_per_record: int) -> tuple[tf.Tensor, int]:
    """The mask row by row, bool (batch,), and how many rows a record has."""
    if len(mask.shape) == 1:
        return mask, rows_per_record
    if rows_per_record not in (1, mask.shape[1]):
        raise ValueError(
            f"The mask's shape gives a record {mask.shape[1]} rows. Received: {rows_per_record}"
        )
    return tf.reshape(mask, [-1]), int(mask.shape[1])


def _method(clipping: ClipMethod | tf.Tensor | float) -> tuple[ClipMethod, tf.Tensor | float]:
    """The method, and the bound in use; a bound alone, perhaps a tensor, means flat clipping."""
    if isinstance(clipping, ClipMethod):
        return clipping, clipping.clipping_norm
    return FlatClipping(1.0), clipping


def _squared_norms(
    kept: BookKept,
    variables: list[keras.Variable],
    grouping: Grouping,
    nothing: tf.Tensor,
) -> tf.Tensor:
    """Squared norms of every record's gradient in every group, float32 (records, groups)."""
    reached = [id(v) for v in variables if id(v) in kept.gradients]
    found = norms_of(
        [kept.gradients[key] for key in reached],
        after=kept.backward,
        paths=[v.path for v in variables if id(v) in kept.gradients],
    )
    norms = dict(zip(reached, found, strict=True))
    of_groups: list[list[tf.Tensor]] = [[] for _ in grouping.shares]
    for variable, group in zip(variables, grouping.group_of, strict=True):
        if id(variable) in norms:
            of_groups[group].append(norms[id(variable)])
    return tf.stack([tf.add_n(terms or [nothing]) for terms in of_groups], axis=1)
