"""Where a step's time goes: how much of it waits for input; and a profiler trace on request.

Steady state is what counts: the first steps of a process compile and fill the pipeline, so they
are left out, and so are traced steps, which the profiler slows down, and steps during which frozen
layers were at work on examples drawn for the first time: that is computing, done once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import tensorflow as tf

_WARM_UP_STEPS = 5
_TRACED_STEPS = 5


class StepClock:
    """Times the optimizer steps of one process.

    Args:
        prepared: Returns how many examples have passed the frozen layers; constant without such.

    Attributes:
        trace_into: Log directory that takes a trace of a few steady steps, for TensorBoard's
            profile plugin; none writes no trace.
        first_step_ended: `time.monotonic()` at the end of the first step; None so far.
    """

    def __init__(self, prepared: Callable[[], int] = lambda: 0):
        self.first_step_ended: float | None = None
        self.trace_into: Path | None = None
        self._prepared = prepared
        self._tracing = False
        self._waits_are_seen = False
        self._begun = self._traced = 0
        self._seconds = self._waited = self._waited_in_step = 0.0

    @property
    def input_wait_share(self) -> float | None:
        """Share of the steady steps' time spent waiting for a batch.

        None before there is one, and where waits cannot be seen: several steps taken in one call
        wait for their batches within it.
        """
        return self._waited / self._seconds if self._seconds and self._waits_are_seen else None

    @contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Times one optimizer step, and traces it if it is one of those to be traced.

        Several steps taken in one call are timed, and traced, as one.
        """
        steady = self._begun >= _WARM_UP_STEPS
        self._begun += 1
        if steady and self.trace_into is not None and not self._traced:
            tf.profiler.experimental.start(str(self.trace_into))
            self._tracing = True
        self._waited_in_step = 0.0
        prepared = self._prepared()
        started = time.monotonic()
        if self._tracing:
            with tf.profiler.experimental.Trace("train", step_num=number, _r=1):
                yield
            self._traced += 1
            if self._traced == _TRACED_STEPS:
                self.close()
        else:
            yield
            if steady and self._prepared() == prepared:
                self._seconds += time.monotonic() - started
                self._waited += self._waited_in_step
        if self.first_step_ended is None:
            self.first_step_ended = time.monotonic()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Times one wait for a batch, within a step."""
        self._waits_are_seen = True
        started = time.monotonic()
        yield
        self._waited_in_step += time.monotonic() - started

    def close(self) -> None:
        """Writes the trace, if one is under way; to be called however training ends."""
        if self._tracing:
            self._tracing = False
            tf.profiler.experimental.stop()
