"""Records of several rows: one person's examples bounded together (user-level privacy).

A batch of records x k rows is a batch whose gradients are added up k by k before the norm, cross
terms included. Factored forms stay factored: a record is one example with k times as many
positions. The sum needs nothing new, because it is linear: every row gets its record's weight.

Sources: McMahan et al. 2018 (arXiv:1710.06963); Chua et al. 2024 (arXiv:2406.14322).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import singledispatch

import tensorflow as tf

from training.privacy.column_blocks import ColumnBlocks
from training.privacy.cost_model import Form
from training.privacy.gradients import (
    GatheredRows,
    Instantiated,
    OuterProducts,
    PerExampleGradient,
    TiedTable,
)
from training.privacy.rules.convolution_kernels import ConvolutionKernels


@dataclass(frozen=True)
class RecordSums:
    """Any form, its rows added up record by record.

    Attributes:
        of_rows: The rows' gradients, (records * rows) of them.
        rows: Rows of a record.
    """

    of_rows: PerExampleGradient
    rows: int

    def squared_norms(self) -> tf.Tensor:
        gradients = self.instantiate()
        return tf.reduce_sum(tf.square(gradients), axis=list(range(1, gradients.shape.rank)))

    def weighted_sum(self, weights: tf.Tensor) -> tf.Tensor:
        return self.of_rows.weighted_sum(tf.repeat(weights, self.rows))

    def instantiate(self) -> tf.Tensor:
        return tf.reduce_sum(_by_record(self.of_rows.instantiate(), self.rows), axis=1)

    def zeroed_where(self, bad: tf.Tensor) -> RecordSums:
        return RecordSums(self.of_rows.zeroed_where(tf.repeat(bad, self.rows)), self.rows)


@dataclass(frozen=True)
class _ConvolutionRecords(RecordSums):
    """Norms from patches of all of a record's images together."""

    of_rows: ConvolutionKernels

    def squared_norms(self) -> tf.Tensor:
        return by_record(self.of_rows.products, self.rows).squared_norms()

    def zeroed_where(self, bad: tf.Tensor) -> _ConvolutionRecords:
        return _ConvolutionRecords(self.of_rows.zeroed_where(tf.repeat(bad, self.rows)), self.rows)


def _by_record(x: tf.Tensor, rows: int) -> tf.Tensor:
    """(records * rows, ...) to (records, rows, ...)."""
    return tf.reshape(x, [-1, rows, *x.shape[1:]])


def _positions_by_record(x: tf.Tensor, rows: int) -> tf.Tensor:
    """(records * rows, time, ...) to (records, rows * time, ...)."""
    records = x.shape[0] // rows
    positions = None if x.shape[1] is None else rows * x.shape[1]
    shape = [records, -1 if positions is None else positions, *x.shape[2:]]
    return tf.ensure_shape(tf.reshape(x, shape), [records, positions, *x.shape[2:]])


@singledispatch
def by_record(gradient: PerExampleGradient, rows: int) -> PerExampleGradient:
    """The gradient of every record: the sum of its `rows` consecutive rows' gradients."""
    return RecordSums(gradient, rows)


@by_record.register
def _product(gradient: OuterProducts, rows: int) -> OuterProducts:
    return OuterProducts(
        _positions_by_record(gradient.inputs, rows),
        _positions_by_record(gradient.output_gradients, rows),
        gradient.layout,
    )


@by_record.register
def _(gradient: ColumnBlocks, rows: int) -> PerExampleGradient:
    return ColumnBlocks(tuple(_product(block, rows) for block in gradient.blocks))


@by_record.register
def _lookup(gradient: GatheredRows, rows: int) -> GatheredRows:
    return GatheredRows(
        _positions_by_record(gradient.ids, rows),
        _positions_by_record(gradient.output_gradients, rows),
        gradient.rows,
    )


@by_record.register
def _(gradient: TiedTable, rows: int) -> PerExampleGradient:
    return TiedTable(_lookup(gradient.lookup, rows), _product(gradient.projection, rows))


@by_record.register
def _(gradient: Instantiated, rows: int) -> PerExampleGradient:
    values = tf.cast(gradient.values, tf.float32)
    return Instantiated(tf.reduce_sum(_by_record(values, rows), axis=1), gradient.padding)


@by_record.register
def _(gradient: ConvolutionKernels, rows: int) -> PerExampleGradient:
    # Rows are never bounded alone: keeping their gradients would serve no norm.
    return _ConvolutionRecords(gradient.with_form(Form.RECOMPUTE), rows)
