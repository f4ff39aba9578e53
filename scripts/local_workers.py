"""Several workers on this machine, as on a cluster: one process each, joined over loopback.

For trying `training.strategy: multi_worker` on a laptop, and for machines whose processes hold
separate accelerators. Every worker runs the very same command with its own TF_CONFIG.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from types import FrameType
from typing import IO

from configs.schema import SettingError, UserError, require
from training.interruption import SIGNALS, Stopped

OPTION = "--local-workers"

# How long workers may take to save and leave once one of them has ended badly.
_GRACE_S = 20.0


def run_workers(argv: Sequence[str], count: int) -> int:
    """Runs `sterling ARGV` as `count` workers and waits for all of them.

    Worker 0, the chief, speaks; of the others only the last words of one that failed are shown.

    Returns:
        0, or the exit code of the worker that failed first; the others are ended then.

    Raises:
        UserError: If this process is itself a worker, or `count` makes no sense.
        Stopped: If a signal ended a worker before it had begun.
    """
    require(count >= 1, OPTION, count, "a whole number >= 1")
    if os.environ.get("TF_CONFIG"):
        raise SettingError(
            OPTION, count, "TF_CONFIG to be unset: it already names this worker's peers"
        )
    addresses = [f"127.0.0.1:{port}" for port in _free_ports(count)]
    with ExitStack() as stack:
        words = [stack.enter_context(tempfile.TemporaryFile()) for _ in addresses]
        workers = [_start(argv, addresses, i, words[i]) for i in range(count)]

        def stop_workers(number: int, frame: FrameType | None) -> None:
            # Never a second SIGINT: the terminal sent its own, and two end a worker unsaved.
            for worker in workers:
                worker.terminate()

        before = {number: signal.signal(number, stop_workers) for number in SIGNALS}
        try:
            return _wait(workers, words)
        finally:
            for worker in workers:
                worker.kill()
            for number, handler in before.items():
                signal.signal(number, handler)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _start(
    argv: Sequence[str], addresses: Sequence[str], index: int, words: IO[bytes]
) -> subprocess.Popen[bytes]:
    cluster = {"cluster": {"worker": list(addresses)}, "task": {"type": "worker", "index": index}}
    # Each its share of the cores: more threads than cores only wait for one another.
    threads = max(1, (os.cpu_count() or 1) // len(addresses))
    environment = {
        **os.environ,
        "TF_CONFIG": json.dumps(cluster),
        "TF_NUM_INTRAOP_THREADS": os.environ.get("TF_NUM_INTRAOP_THREADS", str(threads)),
    }
    quiet = {} if index == 0 else {"stdout": subprocess.DEVNULL, "stderr": words}
    command = [sys.executable, "-m", "scripts.cli", *_without_option(argv)]
    return subprocess.Popen(command, env=environment, **quiet)  # type: ignore[call-overload]


def _without_option(argv: Sequence[str]) -> list[str]:
    """The arguments of one worker: those of all, but for `--local-workers`."""
    kept = [word for word in argv if not word.startswith(f"{OPTION}=")]
    if OPTION in kept:
        at = kept.index(OPTION)
        del kept[at : at + 2]
    return kept


def _wait(workers: Sequence[subprocess.Popen[bytes]], words: Sequence[IO[bytes]]) -> int:
    while all(worker.poll() in (None, 0) for worker in workers):
        if all(worker.poll() == 0 for worker in workers):
            return 0
        time.sleep(0.1)
    time.sleep(1.0)  # those that can say why, say so
    failed = next((i for i, w in enumerate(workers) if w.poll() not in (None, 0)), 0)
    for worker in workers:
        if worker.poll() is None:
            worker.terminate()
    deadline = time.monotonic() + _GRACE_S
    for worker in workers:
        try:
            worker.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()
    code = workers[failed].returncode
    if failed and code > 0:
        _show(failed, words[failed])
    if -code in SIGNALS:  # it had not begun, and left signals to the kernel
        raise Stopped(-code)
    if code < 0:
        raise UserError(
            f"worker {failed} of {len(workers)} was killed ({signal.Signals(-code).name}); the "
            "others were ended. The same command continues the run from its last checkpoint."
        )
    return int(code)


def _show(index: int, words: IO[bytes]) -> None:
    words.seek(0)
    lines = words.read().decode(errors="replace").strip().splitlines()
    for line in lines[-3:]:
        print(f"worker {index}: {line}", file=sys.stderr)
