"""Several optimizer steps in one call of one TensorFlow function, without a word to Python between.

Each step otherwise costs a round trip through Python and TensorFlow's dispatch: little beside a
BERT step on a CPU, most of the time of a small model, and on a TPU, whose host must keep up with
it, the difference between waiting and working. The function loops on the host over the same three
compiled programs that single steps run (`training.steps`), so that a group leaves the same weights
to the last bit as its steps one by one (tested, with XLA too). Its shapes are static: a group that
is cut short by an epoch's end or the budget runs the same function, with fewer turns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

from training.privacy.mechanisms import Draws
from training.step_totals import StepTotals

_NAMES = [field.name for field in fields(StepTotals)]
# The four parts of `Draws`, each with a leading axis of steps.
_Stacked: TypeAlias = "tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]"


@dataclass(frozen=True)
class StepPrograms:
    """What a step runs, as graph code that may be called within another function.

    Attributes:
        add: (batch) -> totals; adds a physical batch to the logical one.
        finish_alone: (batch, noise) -> totals; takes the step with this batch alone.
        finish_accumulated: (batch, noise) -> totals; takes it with all that was added, too.
        remember: (seeds, coefficients, feedback, slot); makes the noise of mechanisms that build
            on earlier noise. None for others.
    """

    add: Callable[..., Any]
    finish_alone: Callable[..., Any]
    finish_accumulated: Callable[..., Any]
    remember: Callable[..., Any] | None


class StepGroup:
    """Takes up to `size` steps in one call.

    Args:
        programs: What each step runs.
        size: Most steps of a call, >= 1.
    """

    def __init__(self, programs: StepPrograms, size: int):
        self._programs, self._size = programs, size
        # By whether steps of one physical batch, and of several, occur: a group without the one
        # or the other needs no program for it.
        self._compiled: dict[tuple[bool, bool], Any] = {}

    def take(
        self, batches: Iterator[Any], draws: Sequence[Draws], counts: Sequence[int]
    ) -> list[StepTotals]:
        """Takes as many steps as there are draws.

        Args:
            batches: A `tf.data` or distributed iterator; all physical batches of the steps are
                taken from it, in order.
            draws: The noise of each step, paid for by now; at most `size`.
            counts: Physical batches of each step, >= 1.

        Returns:
            The totals of every physical batch, in order.
        """
        kinds = (min(counts) == 1, max(counts) > 1)
        if kinds not in self._compiled:
            self._compiled[kinds] = tf.function(
                lambda *arguments: self._steps(kinds, *arguments), autograph=False
            )
        seen = self._compiled[kinds](
            batches,
            self._padded(draws),
            tf.constant([*counts, *[0] * (self._size - len(counts))], tf.int32),
            tf.constant(len(counts), tf.int32),
        )
        return [
            StepTotals(**dict(zip(_NAMES, map(float, row), strict=True))) for row in seen.numpy()
        ]

    def _padded(self, draws: Sequence[Draws]) -> _Stacked:
        padded = [*draws, *[draws[-1]] * (self._size - len(draws))]
        return (
            tf.constant(np.stack([d.seeds for d in padded])),
            tf.constant(np.stack([d.coefficients for d in padded])),
            tf.constant(np.stack([d.feedback for d in padded])),
            tf.constant(np.array([d.slot for d in padded], np.int32)),
        )

    def _steps(
        self,
        kinds: tuple[bool, bool],
        batches: Any,
        draws: _Stacked,
        counts: tf.Tensor,
        steps: tf.Tensor,
    ) -> tf.Tensor:
        totals = tf.TensorArray(tf.float32, size=tf.reduce_sum(counts), element_shape=[len(_NAMES)])

        def one(step: tf.Tensor, at: tf.Tensor, totals: Any) -> tuple[tf.Tensor, tf.Tensor, Any]:
            if kinds[1]:
                at, totals = self._add_all_but_last(batches, counts[step] - 1, at, totals)
            found = self._finish(kinds, batches, [part[step] for part in draws], counts[step])
            return step + 1, at + 1, totals.write(at, _row(found))

        # One at a time: each step begins with the weights that the one before has left.
        _, _, totals = tf.while_loop(
            lambda step, *_: step < steps,
            one,
            (tf.constant(0), tf.constant(0), totals),
            parallel_iterations=1,
        )
        return totals.stack()

    def _add_all_but_last(
        self, batches: Any, count: tf.Tensor, at: tf.Tensor, totals: Any
    ) -> tuple[tf.Tensor, Any]:
        def add(turn: tf.Tensor, at: tf.Tensor, totals: Any) -> tuple[tf.Tensor, tf.Tensor, Any]:
            found = self._programs.add(batches.get_next())
            return turn + 1, at + 1, totals.write(at, _row(found))

        _, at, totals = tf.while_loop(
            lambda turn, *_: turn < count,
            add,
            (tf.constant(0), at, totals),
            parallel_iterations=1,
        )
        return at, totals

    def _finish(
        self, kinds: tuple[bool, bool], batches: Any, draws: list[tf.Tensor], count: tf.Tensor
    ) -> Any:
        seeds, coefficients, feedback, slot = draws
        if self._programs.remember is not None:
            self._programs.remember(seeds, coefficients, feedback, slot)
        batch, noise = batches.get_next(), (seeds, coefficients, slot)
        if not kinds[1]:
            return self._programs.finish_alone(batch, noise)
        if not kinds[0]:
            return self._programs.finish_accumulated(batch, noise)
        return tf.cond(
            count > 1,
            lambda: self._programs.finish_accumulated(batch, noise),
            lambda: self._programs.finish_alone(batch, noise),
        )


def _row(totals: dict[str, tf.Tensor]) -> tf.Tensor:
    return tf.stack([totals.get(name, tf.zeros([])) for name in _NAMES])
