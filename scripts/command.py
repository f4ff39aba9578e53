"""How every command ends: 0, or one line on standard error and exit code 2."""

from __future__ import annotations

import logging
import os
import sys
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
    # TensorFlow's start-up remarks are not the user's business; its errors are.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
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
