"""How every command ends: 0, or one line on standard error and exit code 2.

A signal is no error: 143 after SIGTERM and 130 after Ctrl-C, as shells and schedulers expect, and
the line says what was saved. A place that cannot be written to is no defect either.
"""

from __future__ import annotations

import errno
import importlib
import logging
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from configs.schema import UserError
from data.faults import fault_in
from training.interruption import SIGNALS, Stopped, stop_at_once

# `time.monotonic()` when the command began, but for the start of Python itself.
BEGAN = time.monotonic()

# What is wrong with the place that a file was to be written to, not with Sterling.
_PLACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)


def run_command(main: Callable[[Sequence[str]], None], argv: Sequence[str] | None = None) -> int:
    """Runs a command's body and turns errors made for people, and signals, into one line.

    Args:
        main: The body; takes the arguments after the command's name.
        argv: Those arguments; none takes the process's own.

    Returns:
        The exit code.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for noisy in ("absl", "h5py", "matplotlib", "tensorflow", "httpx"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    try:
        with _signals_stop():
            main(argv)
    except UserError as error:
        if "--debug" in argv:
            raise
        _say(str(error))
        return 2
    except OSError as error:
        if "--debug" in argv or error.errno not in _PLACE:
            raise
        _say(f"{error.filename or 'a file'}: cannot be written ({error.strerror}).")
        return 2
    except (Stopped, KeyboardInterrupt) as error:
        stop = error if isinstance(error, Stopped) else Stopped(signal.SIGINT)
        saved = "" if stop.step is None else f" The run is saved after step {stop.step}."
        _say(f"stopped by {stop.number.name}.{saved} The same command goes on from there.")
        return stop.exit_code
    except Exception as error:
        # An example that could not be read when a batch needed it: TensorFlow wraps the line.
        fault = fault_in(error)
        if fault is None or "--debug" in argv:
            raise
        _say(str(fault))
        return 2
    return 0


def _say(message: str) -> None:
    print(f"sterling: {' '.join(message.split())}", file=sys.stderr)


@contextmanager
def _signals_stop() -> Iterator[None]:
    """Makes SIGTERM and Ctrl-C raise `Stopped`, where Python lets signals be handled."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, stop_at_once) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def start_tensorflow(*, debug: bool) -> None:
    """Imports TensorFlow without its remarks on CPU features, absent GPUs and graph attributes.

    The C++ libraries write some of them before any log level is read, so standard error is set
    aside meanwhile; if the import fails, what they wrote is shown.

    Args:
        debug: Let everything through.
    """
    if debug or "tensorflow" in sys.modules:
        importlib.import_module("tensorflow")
        return
    # Errors that concern a run reach Python as exceptions; those only logged are harmless.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    with tempfile.TemporaryFile() as aside:
        terminal = os.dup(2)
        os.dup2(aside.fileno(), 2)
        try:
            importlib.import_module("tensorflow")
        except Exception:
            aside.seek(0)
            os.write(terminal, aside.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)
