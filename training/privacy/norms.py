"""Norms of per-example gradients: taken quickly, settled exactly where rounding could spoil them.

A Gram matrix gives a norm without the gradient, but its terms have signs, and where they nearly
cancel only rounding is left. Every quick norm therefore says whether it is in doubt, and one
branch a model takes the slow way for those that are. Here, too, every matrix gradient gets its
form (`training.privacy.cost_model`).
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar, runtime_checkable

import tensorflow as tf

from training.privacy.cost_model import Form, MatrixWork, choose_forms

# A squared norm this far below what its terms could add up to may be mostly rounding error.
CANCELLATION = 1e-3


class PerExampleGradient(Protocol):
    """The gradient of one variable for every example of a batch."""

    def squared_norms(self) -> tf.Tensor: ...

    def weighted_sum(self, weights: tf.Tensor) -> tf.Tensor: ...

    def instantiate(self) -> tf.Tensor: ...

    def zeroed_where(self, bad: tf.Tensor) -> PerExampleGradient:
        """The same, with the examples where `bad`, bool (batch,), replaced by exact zeros."""
        ...


@runtime_checkable
class QuickNorms(Protocol):
    """A gradient whose norm has a quick way that rounding can spoil, and a slow one."""

    def quick_squared_norms(self) -> tuple[tf.Tensor, tf.Tensor | None]:
        """The norms, and whether any of them is in doubt, bool (); none if they cannot be."""
        ...

    def exact_squared_norms(self) -> tf.Tensor: ...


@runtime_checkable
class MatrixGradient(QuickNorms, Protocol):
    """A gradient with a choice of forms (`training.privacy.cost_model`)."""

    @property
    def work(self) -> MatrixWork: ...

    @property
    def chosen_form(self) -> Form: ...

    def with_form(self, form: Form) -> PerExampleGradient: ...


# Matrix norms on their way at once: while one ends, the next keeps the other cores busy.
_AT_ONCE = 2


def named(work: str, path: str) -> AbstractContextManager[str]:
    """Names operations by the work they do and the variable or layer they do it for.

    Profiles are read by these names (`benchmarks.operations`).
    """
    return tf.name_scope(re.sub(r"[^A-Za-z0-9_./-]", "_", f"{work}/{path}".rstrip("/")) + "/")


def norms_of(
    gradients: Sequence[PerExampleGradient],
    after: Sequence[tf.Tensor] = (),
    paths: Sequence[str] | None = None,
) -> list[tf.Tensor]:
    """Squared norms of several variables' gradients, each float32 (batch,).

    One branch for all of them takes the slow way where a quick norm is in doubt: a batch without
    doubt, nearly every one, pays for one condition a model.

    Args:
        gradients: One for each variable.
        after: What the norms of matrices wait for. Beside the backward pass they would take the
            cores from its products, each of which the next one waits for; after it, they fill
            them (BERT, 32 x 128, two cores: a step 4 % shorter).
        paths: The variables' paths, for names.
    """
    norms: list[tf.Tensor] = []
    begun: list[tf.Tensor] = []
    doubts: dict[int, tf.Tensor] = {}
    for i, gradient in enumerate(gradients):
        with named("norms", "" if paths is None else paths[i]):
            if not isinstance(gradient, QuickNorms):
                norms.append(gradient.squared_norms())
                continue
            with tf.control_dependencies(begun[-_AT_ONCE : -_AT_ONCE + 1] or after):
                quick, doubt = gradient.quick_squared_norms()
        begun.append(quick)
        norms.append(quick)
        if doubt is not None:
            doubts[i] = doubt
    if not doubts:
        return norms

    def settle(i: int) -> tf.Tensor:
        gradient = gradients[i]
        assert isinstance(gradient, QuickNorms)
        return tf.cond(doubts[i], gradient.exact_squared_norms, lambda: norms[i])

    settled = tf.cond(
        tf.reduce_any(tf.stack(list(doubts.values()))),
        lambda: [settle(i) for i in doubts],
        lambda: [norms[i] for i in doubts],
    )
    for i, exact in zip(doubts, settled, strict=True):
        norms[i] = exact
    return norms


_Key = TypeVar("_Key", bound=Hashable)


def within_memory(
    gradients: Mapping[_Key, PerExampleGradient], memory_bytes: float | None
) -> dict[_Key, PerExampleGradient]:
    """Chooses every matrix gradient's form so that what they keep together fits.

    Args:
        gradients: All gradients of a step.
        memory_bytes: Most that may be kept until the clip factors are known; none allows as much
            as the trained matrices themselves take, which noise and optimizer need later anyway.
    """
    matrices = {key: g for key, g in gradients.items() if isinstance(g, MatrixGradient)}
    works = [gradient.work for gradient in matrices.values()]
    if memory_bytes is None:
        memory_bytes = sum(work.matrices_bytes / work.batch for work in works)
    forms = choose_forms(works, memory_bytes)
    chosen = {
        key: gradient.with_form(form)
        for (key, gradient), form in zip(matrices.items(), forms, strict=True)
    }
    return {**gradients, **chosen}


def ghost_norms(grams: tf.Tensor, output_grams: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Squared norms from two Gram matrices, and whether any is in doubt.

    Terms of both signs that nearly cancel leave rounding errors in place of the norm, and an
    example that looks small would not be clipped. Those batches, rare ones, take the norm of the
    gradients themselves, whose rounding is that of the sum that is released.

    Args:
        grams: float32 (batch, time, time), inner products of the inputs.
        output_grams: float32 (batch, time, time), inner products of the output gradients.
    """
    ghost, largest = ghost_terms(grams, output_grams)
    return ghost, in_doubt(ghost, largest)


def ghost_terms(grams: tf.Tensor, output_grams: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Squared norms from two Gram matrices, and what their terms could add up to: no less."""
    ghost = row_sums(grams * output_grams)
    lengths = tf.linalg.diag_part(grams) * tf.linalg.diag_part(output_grams)  # (batch, time)
    return ghost, tf.square(row_sums(tf.sqrt(tf.maximum(lengths, 0.0))))


def in_doubt(ghost: tf.Tensor, largest: tf.Tensor) -> tf.Tensor:
    """Whether any squared norm is so far below its bound that it may be rounding, bool ()."""
    return tf.reduce_any(ghost < CANCELLATION * largest)


def row_sums(x: tf.Tensor) -> tf.Tensor:
    """Sums `x` (batch, ...) over everything but the batch."""
    return tf.reduce_sum(x, axis=list(range(1, x.shape.rank)))
