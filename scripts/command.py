"""How every command ends: 0, or one line on standard error and exit code 2."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Sequence

from configs.schema import UserError


def run_command(main: Callable[[Sequence[str]], None], argv: Sequence[str] | None = None) -> int:
    """Runs a command's body and turns a `UserError` into one line.

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
        main(argv)
    except UserError as error:
        if "--debug" in argv:
            raise
        print(f"sterling: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("sterling: interrupted; the same command continues the run.", file=sys.stderr)
        return 130
    return 0


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
        except BaseException:
            aside.seek(0)
            os.write(terminal, aside.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)
