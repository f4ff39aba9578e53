"""A matrix whose columns fall into blocks, each a sum of outer products with inputs of its own.

    dW = [sum over t of a_t^T dz_t, sum over t of b_t^T dw_t, ...]

Kernels of gated recurrent layers are such where every gate sees the layer's input, or its state,
through a dropout mask of its own. Blocks do not overlap, so that squared norms add up.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import tensorflow as tf

from training.privacy.cost_model import Form, MatrixWork, fastest
from training.privacy.gradients import OuterProducts
from training.privacy.norms import in_doubt, norms_of


@dataclass(frozen=True)
class ColumnBlocks:
    """Example i's gradient is the blocks' matrices side by side.

    Attributes:
        blocks: In the order of the columns, of as many rows and as long each, all in one form.
    """

    blocks: tuple[OuterProducts, ...]

    @property
    def work(self) -> MatrixWork:
        first = self.blocks[0].work
        columns = sum(block.work.columns for block in self.blocks)
        return replace(first, columns=columns, blocks=len(self.blocks))

    @property
    def chosen_form(self) -> Form:
        return self.blocks[0].form or fastest(self.work)

    def with_form(self, form: Form) -> ColumnBlocks:
        return ColumnBlocks(tuple(block.with_form(form) for block in self.blocks))

    def _formed(self) -> ColumnBlocks:
        return self if self.blocks[0].form else self.with_form(self.chosen_form)

    def quick_squared_norms(self) -> tuple[tf.Tensor, tf.Tensor | None]:
        if self.chosen_form is not Form.GHOST:
            return self.exact_squared_norms(), None
        terms = [block.ghost_terms() for block in self.blocks]
        ghost = tf.add_n([norms for norms, _ in terms])
        bounds = [largest for _, largest in terms if largest is not None]
        # A block that is nearly nothing beside the others puts none of them in doubt.
        return ghost, in_doubt(ghost, tf.add_n(bounds)) if bounds else None

    def exact_squared_norms(self) -> tf.Tensor:
        return tf.add_n([block.exact_squared_norms() for block in self._formed().blocks])

    def squared_norms(self) -> tf.Tensor:
        return norms_of([self])[0]

    def weighted_sum(self, weights: tf.Tensor) -> tf.Tensor:
        sums = [block.weighted_sum(weights) for block in self._formed().blocks]
        return tf.concat(sums, axis=-1)

    def instantiate(self) -> tf.Tensor:
        return tf.concat([block.instantiate() for block in self.blocks], axis=-1)

    def zeroed_where(self, bad: tf.Tensor) -> ColumnBlocks:
        return ColumnBlocks(tuple(block.zeroed_where(bad) for block in self.blocks))
