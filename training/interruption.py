"""SIGTERM and Ctrl-C during training: held until what was done is saved.

Between steps nothing is half done, so the loop asks there whether it should stop. Outside the
loop there is nothing to save, and a signal ends the command at once (`scripts.command`).
"""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(BaseException):
    """A signal ended the work. Not an `Exception`: nothing but the command handles it.

    Args:
        number: The signal.
        step: Optimizer steps that are saved; None where nothing was to be saved.
    """

    def __init__(self, number: int, step: int | None = None):
        self.number, self.step = signal.Signals(number), step
        super().__init__(self.number.name)

    @property
    def exit_code(self) -> int:
        """What shells and schedulers expect of a process that this signal ended."""
        return 128 + self.number


def stop_at_once(number: int, frame: FrameType | None) -> None:
    """A signal handler.

    Raises:
        Stopped: Always.
    """
    raise Stopped(number)


class Interruption:
    """Takes down the first signal instead of acting on it, for the length of a `with` block.

    A second Ctrl-C ends the work at once; a second SIGTERM changes nothing, since schedulers send
    it to a process and again to its group.

    Attributes:
        requested: The signal that came; None so far.
    """

    def __init__(self) -> None:
        self.requested: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interruption:
        # Elsewhere Python allows no handlers, and delivers no signals.
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._take_down) for number in SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _take_down(self, number: int, frame: FrameType | None) -> None:
        if self.requested is not None and number == signal.SIGINT:
            raise Stopped(number)
        self.requested = self.requested or signal.Signals(number)
