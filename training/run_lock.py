"""One process to a run directory: two would mix their checkpoints and undercount the budget.

On a disk the kernel holds the lock (`flock`), so it ends with its process, however that ends, and
the file that carries it only says who holds it. In an object store the lock is an object that is
created only if it is absent; it outlives a killed process, so it is taken over when its holder is
known to be gone, and otherwise a person must decide.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from pathlib import Path
from types import TracebackType
from typing import Any

from upath import UPath

from configs.schema import UserError
from training.cluster import Task
from training.files import AnyPath, writing

LOCK_NAME = ".lock"


class RunLock:
    """The right to write into a run directory.

    As a context manager it takes the lock at once where the directory exists; a new directory's
    is taken by `acquire`, when the directory is made. It is given back at the end of the block.
    The workers of one cluster hold a lock each.

    Args:
        root: The run directory.
        task: This process's place in its cluster; None for a run of one process.

    Attributes:
        held: Whether this object holds it.
    """

    def __init__(self, root: AnyPath, task: Task | None = None):
        self._root = root
        part = "" if task is None or task.is_first else f".{task.kind}-{task.index}"
        self._path = root / f"{LOCK_NAME}{part}"
        self._handle: int | None = None
        self.held = False

    def __enter__(self) -> RunLock:
        if self._root.exists():
            self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()

    def acquire(self) -> None:
        """Takes the lock, unless this object holds it already.

        Raises:
            UserError: If another process holds it (names it), or the directory is read-only.
        """
        if self.held:
            return
        if isinstance(self._path, UPath):
            self._acquire_in_store(self._path)
        else:
            self._acquire_on_disk(self._path)
        self.held = True

    def release(self) -> None:
        """Gives the lock back, if it is held."""
        if not self.held:
            return
        self.held = False
        self._path.unlink(missing_ok=True)
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def _acquire_on_disk(self, path: Path) -> None:
        with writing(self._root):
            while True:
                handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    # Whoever held it before may have removed the file that was opened.
                    if _still_names(path, handle):
                        os.ftruncate(handle, 0)
                        os.pwrite(handle, json.dumps(_this_process()).encode(), 0)
                        self._handle = handle
                        return
                except BlockingIOError as error:
                    raise self._refusal(_holder_of(path), "") from error
                finally:
                    if self._handle is None:
                        os.close(handle)

    def _acquire_in_store(self, path: UPath) -> None:
        content = json.dumps(_this_process()).encode()
        holder = _holder_of(path)
        if _is_gone(holder):
            path.unlink(missing_ok=True)
        with writing(self._root):
            try:
                path.fs.pipe_file(path.path, content, mode="create")
            except FileExistsError as error:
                raise self._refusal(
                    _holder_of(path), f" If that process is gone, delete {path} and go on."
                ) from error

    def _refusal(self, holder: dict[str, Any], way_out: str) -> UserError:
        who = f"process {holder['pid']} on {holder['host']}" if holder else "another process"
        return UserError(
            f"{self._root}: {who} is working on this run. Wait for it, stop it, or name another "
            f"directory with --run.{way_out}"
        )


def _this_process() -> dict[str, Any]:
    return {"pid": os.getpid(), "host": socket.gethostname()}


def _holder_of(path: AnyPath) -> dict[str, Any]:
    """Who holds the lock; empty if nobody, or if they have not said so yet."""
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return holder if isinstance(holder, dict) and {"pid", "host"} <= set(holder) else {}


def _is_gone(holder: dict[str, Any]) -> bool:
    """Whether the holder ran on this machine and no longer does."""
    if holder.get("host") != socket.gethostname():
        return False
    try:
        os.kill(int(holder["pid"]), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _still_names(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(handle))
    except FileNotFoundError:
        return False
