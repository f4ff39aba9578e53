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
        programs = self._programs
        kept = tf.TensorArray(tf.float32, size=tf.reduce_sum(counts), element_shape=[len(_NAMES)])

        def repeated(turns: tf.Tensor, program: Callable[[], Any], at: Any, kept: Any) -> Any:
            """Runs a program of one physical batch so many times, keeping its totals."""
            _, at, kept = _loop(
                turns, lambda _, at, kept: (at + 1, kept.write(at, _row(program()))), at, kept
            )
            return at, kept

        def one(step: tf.Tensor, at: tf.Tensor, kept: Any) -> tuple[tf.Tensor, Any]:
            seeds, coefficients, feedback, slot = (part[step] for part in draws)
            noise, alone = (seeds, coefficients, slot), tf.cast(counts[step] == 1, tf.int32)
            if programs.remember is not None:
                programs.remember(seeds, coefficients, feedback, slot)
            if kinds[1]:
                at, kept = repeated(
                    counts[step] - 1, lambda: programs.add(batches.get_next()), at, kept
                )
                at, kept = repeated(
                    1 - alone,
                    lambda: programs.finish_accumulated(batches.get_next(), noise),
                    at,
                    kept,
                )
            if kinds[0]:
                # No tf.cond: under MirroredStrategy it loses what its branches take.
                at, kept = repeated(
                    alone, lambda: programs.finish_alone(batches.get_next(), noise), at, kept
                )
            return at, kept

        _, _, kept = _loop(steps, one, tf.constant(0), kept)
        return kept.stack()


def _loop(turns: tf.Tensor, body: Callable[..., Any], *carried: Any) -> tuple[Any, ...]:
    """(turn, *carried) after so many turns, one at a time: each begins with what the last left."""
    return tf.while_loop(
        lambda turn, *_: turn < turns,
        lambda turn, *carried: (turn + 1, *body(turn, *carried)),
        (tf.constant(0), *carried),
        parallel_iterations=1,
    )


def _row(totals: dict[str, tf.Tensor]) -> tf.Tensor:
    return tf.stack([totals.get(name, tf.zeros([])) for name in _NAMES])
