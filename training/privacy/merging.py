"""One gradient of the several uses of a variable: cross terms count, and joins stay factored."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import tensorflow as tf

from training.privacy.column_blocks import ColumnBlocks
from training.privacy.gradients import (
    GatheredRows,
    Instantiated,
    OuterProducts,
    PerExampleGradient,
    TiedTable,
)


def _is_transposed_table(part: OuterProducts, rows: int) -> bool:
    return part.layout.permutation == (1, 0) and part.output_gradients.shape[-1] == rows


def _joined(first: OuterProducts, second: OuterProducts) -> OuterProducts:
    """A sum of products over two times is one product over both times together."""
    return OuterProducts(
        tf.concat([first.inputs, second.inputs], axis=1),
        tf.concat([first.output_gradients, second.output_gradients], axis=1),
        first.layout,
    )


def _merge_two(first: PerExampleGradient, second: PerExampleGradient) -> PerExampleGradient:
    if isinstance(first, OuterProducts) and isinstance(second, OuterProducts):
        if first.layout == second.layout:
            return _joined(first, second)
    elif isinstance(first, ColumnBlocks) and isinstance(second, ColumnBlocks):
        pairs = list(zip(first.blocks, second.blocks, strict=False))
        alike = len(first.blocks) == len(second.blocks)
        if alike and all(a.layout == b.layout for a, b in pairs):
            return ColumnBlocks(tuple(_joined(a, b) for a, b in pairs))
    elif isinstance(first, GatheredRows) and isinstance(second, GatheredRows):
        return GatheredRows(
            tf.concat([first.ids, second.ids], axis=1),
            tf.concat([first.output_gradients, second.output_gradients], axis=1),
            first.rows,
        )
    elif isinstance(first, GatheredRows) and isinstance(second, OuterProducts):
        if _is_transposed_table(second, first.rows):
            return TiedTable(first, second)
    elif isinstance(first, OuterProducts) and isinstance(second, GatheredRows):
        return _merge_two(second, first)
    return Instantiated(first.instantiate() + second.instantiate())


def merge(parts: Sequence[PerExampleGradient]) -> PerExampleGradient:
    """Joins the gradients of all uses of one variable into that variable's gradient."""
    if len(parts) > 1:  # convolutions join as products of their patches
        parts = [getattr(part, "products", part) for part in parts]
    kinds = (GatheredRows, OuterProducts, ColumnBlocks)
    groups: list[list[PerExampleGradient]] = [[], [], [], []]
    for part in parts:
        groups[next((i for i, kind in enumerate(kinds) if isinstance(part, kind)), -1)].append(part)
    # Like with like first: those joins stay factored.
    return reduce(_merge_two, [reduce(_merge_two, group) for group in groups if group])
