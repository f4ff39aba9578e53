"""The algebra of per-example gradients: kept factored, so that they are never all materialised.

A rule describes the gradient of one variable at one layer call, for every example of the batch,
as one of a few factored forms. Each form knows three things:

* `squared_norms()`, float32 (batch,): every example's squared L2 norm;
* `weighted_sum(weights)`, float32 of the variable's shape: the sum over examples of weight times
  gradient, which with clip factors for weights is what DP-SGD releases (before noise);
* `instantiate()`, float32 (batch, *variable shape): the gradients themselves, for when nothing
  cleverer applies.

A variable used several times (tied embeddings, a shared tower) has a gradient that is the *sum*
of its uses' gradients, so the squared norms of the parts do not add up: `training.privacy.merging`
joins the parts into one form in which the cross terms count.

Sources: Goodfellow 2015 (arXiv:1510.01799), Lee & Kifer 2020 (2009.03106), Li et al. 2022
(2110.05679), Bu et al. 2022, 2023 (2205.10683, 2210.00038), Kong & Munoz Medina 2023.
All norms are computed in float32 whatever the layer's dtype.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import tensorflow as tf

from training.privacy.cost_model import Form, MatrixWork, fastest
from training.privacy.norms import CANCELLATION, ghost_terms, in_doubt, norms_of, row_sums
from training.privacy.norms import PerExampleGradient as PerExampleGradient


def scale_rows(x: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """Multiplies row i of `x` (batch, ...) by `weights[i]`, in float32."""
    shape = [-1] + [1] * (x.shape.rank - 1)
    return tf.cast(x, tf.float32) * tf.reshape(weights, shape)


def zero_rows(x: tf.Tensor, bad: tf.Tensor) -> tf.Tensor:
    """Replaces the rows of `x` (batch, ...) where `bad` by zeros, whatever they held."""
    shape = [-1] + [1] * (x.shape.rank - 1)
    # Not a zero for all: a GPU's graph could not be laid out anew around it, channels first.
    return tf.where(tf.reshape(bad, shape), tf.zeros_like(x), x)


@dataclass(frozen=True)
class MatrixLayout:
    """How a variable's axes arise from a matrix (rows, columns).

    The matrix is reshaped to `axes` and transposed by `permutation`; a plain Dense kernel is
    `MatrixLayout((d, p), (0, 1))`.
    """

    axes: tuple[int, ...]
    permutation: tuple[int, ...]

    def arrange(self, matrices: tf.Tensor) -> tf.Tensor:
        """Maps (..., rows, columns) to (..., *variable shape)."""
        leading = matrices.shape.rank - 2
        shape = tf.concat([tf.shape(matrices)[:leading], self.axes], axis=0)
        static = matrices.shape[:leading].concatenate(self.axes)
        reshaped = tf.ensure_shape(tf.reshape(matrices, shape), static)
        if self.permutation == tuple(range(len(self.permutation))):
            return reshaped
        return tf.transpose(
            reshaped, [*range(leading), *(leading + axis for axis in self.permutation)]
        )


def plain_layout(*axes: int) -> MatrixLayout:
    """The layout of a variable that is the matrix itself, its rows on all axes but the last."""
    return MatrixLayout(axes, tuple(range(len(axes))))


@dataclass(frozen=True)
class OuterProducts:
    """Example i's gradient is the matrix `inputs[i]^T @ output_gradients[i]`.

    Dense and EinsumDense kernels, convolutions seen as products of patches.

    Attributes:
        inputs: (batch, time, d).
        output_gradients: (batch, time, p).
        layout: How the (d, p) matrix becomes the variable.
        form: How it is clipped; none for the fastest.
    """

    inputs: tf.Tensor
    output_gradients: tf.Tensor
    layout: MatrixLayout
    form: Form | None = None

    @property
    def work(self) -> MatrixWork:
        batch, time, rows = self.inputs.shape
        return MatrixWork(batch, time, rows, self.output_gradients.shape[-1])

    @property
    def chosen_form(self) -> Form:
        return self.form or fastest(self.work)

    def with_form(self, form: Form) -> OuterProducts:
        return replace(self, form=form)

    def _instantiated(self) -> tf.Tensor:
        """Every example's gradient as a matrix, float32 (batch, d, p)."""
        inputs = tf.cast(self.inputs, tf.float32)
        gradients = tf.cast(self.output_gradients, tf.float32)
        return tf.matmul(inputs, gradients, transpose_a=True)

    @cached_property
    def _kept(self) -> tf.Tensor:
        """The same, for the norm and again for the sum."""
        return self._instantiated()

    def quick_squared_norms(self) -> tuple[tf.Tensor, tf.Tensor | None]:
        if self.chosen_form is not Form.GHOST:
            return self.exact_squared_norms(), None
        ghost, largest = self.ghost_terms()
        return ghost, None if largest is None else in_doubt(ghost, largest)

    def ghost_terms(self) -> tuple[tf.Tensor, tf.Tensor | None]:
        """As `training.privacy.norms.ghost_terms`; no bound where nothing can cancel."""
        inputs = tf.cast(self.inputs, tf.float32)
        gradients = tf.cast(self.output_gradients, tf.float32)
        if self.work.time == 1:
            return row_sums(tf.square(inputs)) * row_sums(tf.square(gradients)), None
        # Layers with a common input (query, key and value) share its Gram matrix: the graph
        # optimizer merges equal operations.
        return ghost_terms(
            tf.matmul(inputs, inputs, transpose_b=True),
            tf.matmul(gradients, gradients, transpose_b=True),
        )

    def exact_squared_norms(self) -> tf.Tensor:
        kept = self.chosen_form is Form.INSTANTIATE
        return row_sums(tf.square(self._kept if kept else self._instantiated()))

    def squared_norms(self) -> tf.Tensor:
        return norms_of([self])[0]

    def weighted_sum(self, weights: tf.Tensor) -> tf.Tensor:
        rows, columns = self.inputs.shape[-1], self.output_gradients.shape[-1]
        if self.chosen_form is Form.INSTANTIATE:
            # The norm needed the gradients themselves; adding them up is all that is left.
            flat = tf.reshape(self._kept, [-1, rows * columns])
            total = tf.linalg.matvec(flat, weights, transpose_a=True)
            return self.layout.arrange(tf.reshape(total, [rows, columns]))
        # One ordinary matrix product over batch and time, the clip factors inside the smaller
        # of its operands.
        if rows <= columns:
            inputs = scale_rows(self.inputs, weights)
            gradients = tf.cast(self.output_gradients, tf.float32)
        else:
            inputs = tf.cast(self.inputs, tf.float32)
            gradients = scale_rows(self.output_gradients, weights)
        total = tf.matmul(
            tf.reshape(inputs, [-1, rows]), tf.reshape(gradients, [-1, columns]), transpose_a=True
        )
        return self.layout.arrange(total)

    def instantiate(self) -> tf.Tensor:
        return self.layout.arrange(self._instantiated())

    def zeroed_where(self, bad: tf.Tensor) -> OuterProducts:
        return replace(
            self,
            inputs=zero_rows(self.inputs, bad),
            output_gradients=zero_rows(self.output_gradients, bad),
        )


@dataclass(frozen=True)
class GatheredRows:
    """Example i's gradient adds `output_gradients[i, t]` to row `ids[i, t]`: an embedding table.

    Ids repeated within one example interact, hence the equality mask in the norm.

    Attributes:
        ids: int32 (batch, time), each in [0, rows).
        output_gradients: (batch, time, d).
        rows: Rows of the table.
    """

    ids: tf.Tensor
    output_gradients: tf.Tensor
    rows: int

    def squared_norms(self) -> tf.Tensor:
        gradients = tf.cast(self.output_gradients, tf.float32)
        same = tf.cast(self.ids[:, :, None] == self.ids[:, None, :], tf.float32)
        # Every position gets the whole gradient of its row, of which it is one in `count`. Sums
        # of squares, unlike a Gram matrix's signed terms, cannot cancel.
        of_rows = tf.matmul(same, gradients)  # (batch, time, d)
        count = tf.reduce_sum(same, axis=2)
        return tf.reduce_sum(tf.reduce_sum(tf.square(of_rows), axis=2) / count, axis=1)

    def weighted_sum(self, weights: tf.Tensor) -> tf.Tensor:
        gradients = scale_rows(self.output_gradients, weights)
        width = self.output_gradients.shape[-1]
        return tf.math.unsorted_segment_sum(
            tf.reshape(gradients, [-1, width]), tf.reshape(self.ids, [-1]), self.rows
        )

    def instantiate(self) -> tf.Tensor:
        one_hot = tf.one_hot(self.ids, self.rows, dtype=tf.float32)  # (batch, time, rows)
        return tf.matmul(one_hot, tf.cast(self.output_gradients, tf.float32), transpose_a=True)

    def zeroed_where(self, bad: tf.Tensor) -> GatheredRows:
        return GatheredRows(self.ids, zero_rows(self.output_gradients, bad), self.rows)


@dataclass(frozen=True)
class Instantiated:
    """Example i's gradient itself: biases, scales, offsets, and whatever has no factored form.

    Attributes:
        values: (batch, *shape), covering the leading corner of the variable.
        padding: Zeros after `values` along each axis, one number an axis, which complete the
            variable (a position table longer than the sequence); empty for none.
    """

    values: tf.Tensor
    padding: tuple[int, ...] = field(default=())

    def _pad(self, x: tf.Tensor) -> tf.Tensor:
        if not any(self.padding):
            return x
        leading = x.shape.rank - len(self.padding)
        return tf.pad(x, [(0, 0)] * leading + [(0, after) for after in self.padding])

    def squared_norms(self) -> tf.Tensor:
        return row_sums(tf.square(tf.cast(self.values, tf.float32)))

    def weighted_sum(self, weights: tf.Tensor) -> tf.Tensor:
        return self._pad(tf.tensordot(weights, tf.cast(self.values, tf.float32), axes=1))

    def instantiate(self) -> tf.Tensor:
        return self._pad(tf.cast(self.values, tf.float32))

    def zeroed_where(self, bad: tf.Tensor) -> Instantiated:
        return Instantiated(zero_rows(self.values, bad), self.padding)


@dataclass(frozen=True)
class TiedTable:
    """A table looked up by ids and also used as a matrix: tied input and output embeddings.

    Example i's gradient is `lookup_i + projection_i`; the squared norm of the sum is
    |lookup|^2 + |projection|^2 + 2 <lookup, projection>, and the inner product is computed
    without the table-sized gradients:
    `sum_{t,s} <lookup_gradient_t, input_s> * output_gradient_s[id_t]`.

    Attributes:
        lookup: Its use as a lookup.
        projection: Its use as a matrix whose layout puts table rows on columns, transposed.
    """

    lookup: GatheredRows
    projection: OuterProducts

    def quick_squared_norms(self) -> tuple[tf.Tensor, tf.Tensor | None]:
        lookup_gradients = tf.cast(self.lookup.output_gradients, tf.float32)  # (b, t, d)
        inputs = tf.cast(self.projection.inputs, tf.float32)  # (b, s, d)
        outputs = tf.cast(self.projection.output_gradients, tf.float32)  # (b, s, rows)
        at_ids = tf.gather(outputs, self.lookup.ids, axis=2, batch_dims=1)  # (b, s, t)
        cross = tf.matmul(inputs, lookup_gradients, transpose_b=True) * at_ids
        projected, doubt = self.projection.quick_squared_norms()
        parts = self.lookup.squared_norms() + projected
        total = parts + 2.0 * row_sums(cross)
        cancels = tf.reduce_any(total < CANCELLATION * parts)
        return total, cancels if doubt is None else cancels | doubt

    def exact_squared_norms(self) -> tf.Tensor:
        return row_sums(tf.square(self.instantiate()))

    def squared_norms(self) -> tf.Tensor:
        return norms_of([self])[0]

    def weighted_sum(self, weights: tf.Tensor) -> tf.Tensor:
        return self.lookup.weighted_sum(weights) + self.projection.weighted_sum(weights)

    def instantiate(self) -> tf.Tensor:
        return self.lookup.instantiate() + self.projection.instantiate()

    def zeroed_where(self, bad: tf.Tensor) -> TiedTable:
        return TiedTable(self.lookup.zeroed_where(bad), self.projection.zeroed_where(bad))
