"""SIGTERM and Ctrl-C during training: held until what was done is saved.

Between steps nothing is half done, so the loop asks there whether it should stop. Outside the
loop there is nothing to save, and a signal ends the command at once (`scripts.command`).

Python runs signal handlers in its main thread alone, and not while that waits inside TensorFlow.
What reads ahead must hear of a signal all the same, so a thread listens for its number as well.
"""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable
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

    Args:
        then: Called once, in a thread of its own, as soon as a signal comes, even while the main
            thread waits inside TensorFlow.

    Attributes:
        requested: The signal that came; None so far.
        given_up: Whether `then` was called.
    """

    def __init__(self, then: Callable[[], None] | None = None) -> None:
        self.requested: signal.Signals | None = None
        self.given_up = False
        self._then = then
        # Apart from `requested`, which the listening thread may have set before the handler ran.
        self._taken_down = False
        self._before: dict[signal.Signals, Any] = {}
        self._wakeup: tuple[socket.socket, int] | None = None

    def __enter__(self) -> Interruption:
        # Elsewhere Python allows no handlers, and delivers no signals.
        if threading.current_thread() is threading.main_thread():
            if self._then is not None:
                self._listen(self._then)
            self._before = {number: signal.signal(number, self._take_down) for number in SIGNALS}
        return self

    def _listen(self, then: Callable[[], None]) -> None:
        ours, pythons = socket.socketpair()
        pythons.setblocking(False)
        self._wakeup = pythons, signal.set_wakeup_fd(pythons.fileno(), warn_on_full_buffer=False)

        def hear() -> None:
            with ours:
                while numbers := ours.recv(1):
                    if numbers[0] in SIGNALS and not self.given_up:
                        self.requested = self.requested or signal.Signals(numbers[0])
                        self.given_up = True
                        then()

        threading.Thread(target=hear, name="signals", daemon=True).start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._wakeup is not None:
            pythons, before = self._wakeup
            signal.set_wakeup_fd(before)
            pythons.close()  # the thread that listens reads its end

    def _take_down(self, number: int, frame: FrameType | None) -> None:
        if self._taken_down and number == signal.SIGINT:
            raise Stopped(number)
        self._taken_down = True
        self.requested = self.requested or signal.Signals(number)
