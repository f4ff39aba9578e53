"""The file layer: every path a run writes to, on a disk or in an object store; whole or absent.

On a disk: temporary name, flush to the platter, rename, flush of the folder. In an object store
(any fsspec filesystem: `gs://`, `s3://`, `memory://`) an object appears whole or not at all, a
folder is written here and uploaded with its manifest last, and a line is appended by replacing
the object, since stores cannot append.

What cannot be written is a `UserError` that says where, why, and that the run can go on.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias, cast

import fsspec
from upath import UPath

from configs.schema import UserError

# A `pathlib.Path` on a disk, a `UPath` (with the same methods) anywhere else.
AnyPath: TypeAlias = "Path | UPath"


def path_of(location: str | AnyPath) -> Path:
    """A file or folder by its name: `runs/mine`, `gs://bucket/runs/mine`, `memory://mine`.

    Returns:
        A `Path`, or for a URL a `UPath`, which has a path's methods but no place on this machine.

    Raises:
        UserError: If nothing here can open such URLs.
    """
    text = str(location)
    protocol, separator, rest = text.partition("://")
    if not separator:
        return Path(text)
    if protocol in ("file", "local"):
        return Path(rest)
    try:
        fsspec.get_filesystem_class(protocol)
    except (ImportError, ValueError) as error:
        raise UserError(
            f"{text}: no filesystem for {protocol}:// is installed ({error}). For gs:// and s3://: "
            "pip install -e '.[remote]' in Sterling's folder."
        ) from error
    return cast(Path, UPath(text))


def is_local(path: AnyPath) -> bool:
    """Whether `path` lies on a disk of this machine."""
    return not isinstance(path, UPath)


@contextmanager
def writing(path: AnyPath) -> Iterator[None]:
    """Turns a failure to write at `path` into a `UserError`."""
    # Object stores fail with errors of their own clients (credentials, network).
    failures = (Exception,) if isinstance(path, UPath) else (OSError,)
    try:
        yield
    except UserError:
        raise
    except failures as error:
        raise unwritable(path, getattr(error, "strerror", None) or str(error)) from error


def unwritable(path: AnyPath, reason: str) -> UserError:
    """The error for a place that cannot be written to; `reason` may be one of TensorFlow's."""
    reason = reason.partition("\n")[0].rpartition("; ")[2].partition(" [Op:")[0]
    return UserError(
        f"{path}: cannot be written ({reason}). What was saved before is whole: make room or make "
        "it writable, and the same command continues the run."
    )


def sync_directory(path: Path) -> None:
    """Makes renames inside `path`, on a disk, durable."""
    _sync(path)


def sync_tree(folder: Path) -> None:
    """Makes every file and folder in and below `folder`, on a disk, durable."""
    for root, _, files in os.walk(folder):
        for name in files:
            _sync(Path(root) / name)
        sync_directory(Path(root))


def write_atomically(path: AnyPath, text: str) -> None:
    """Replaces `path` by `text`; readers see the old content or the new, never a part.

    Raises:
        UserError: If it cannot be written.
    """
    with writing(path):
        if isinstance(path, UPath):
            path.write_bytes(text.encode("utf-8"))
            return
        temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            with open(temporary, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_directory(path.parent)


def append_durably(path: AnyPath, lines: str) -> None:
    """Adds whole lines to a file's end; when this returns they are on the disk or in the store.

    Lines that do not fit are taken back, so that the file keeps ending with a whole one.

    Raises:
        UserError: If it cannot be written.
    """
    content = lines.encode("utf-8")
    with writing(path):
        if isinstance(path, UPath):
            path.write_bytes(path.read_bytes() + content)
            return
        with open(path, "ab", buffering=0) as file:
            length = file.tell()
            try:
                if file.write(content) != len(content):
                    raise OSError(None, "no room for another line")
                os.fsync(file.fileno())
            except OSError:
                file.truncate(length)
                raise


@contextmanager
def staged(target: AnyPath, last: str) -> Iterator[Path]:
    """Yields an empty folder on a disk that becomes `target`, whole, when the block ends well.

    Args:
        target: A folder that does not exist yet.
        last: The file by which readers know that the folder is whole; uploaded last.

    Raises:
        UserError: If it cannot be written.
    """
    if isinstance(target, UPath):
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
            with writing(target):
                _upload(Path(folder), target, last)
        return
    partial = target.with_name(f".{target.name}.partial")
    with writing(target):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            yield partial
            sync_tree(partial)
            partial.rename(target)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        sync_directory(partial.parent)


@contextmanager
def on_disk(path: AnyPath) -> Iterator[Path]:
    """Yields a file or folder as one on a disk: itself, or a copy that is removed afterwards."""
    if not isinstance(path, UPath):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        if path.is_dir():
            for source in path.rglob("*"):
                if source.is_file():
                    file = copy / source.path[len(path.path) :].lstrip("/")
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_bytes(source.read_bytes())
        else:
            copy.write_bytes(path.read_bytes())
        yield copy


def upload_tree(source: Path, target: AnyPath) -> None:
    """Copies all files of a folder on a disk into one in an object store.

    Raises:
        UserError: If it cannot be written.
    """
    with writing(target):
        _upload(source, target, last="")


def remove_tree(path: AnyPath) -> None:
    """Removes a folder and all that is in it."""
    if isinstance(path, UPath):
        path.fs.rm(path.path, recursive=True)
    else:
        shutil.rmtree(path)


def remove_leavings(folder: Path) -> None:
    """Removes what a killed process had not finished writing, in and below `folder`, on a disk.

    Only for the process that holds the run's lock.
    """
    for leaving in [*folder.rglob(".*.partial"), *folder.glob("export/.*")]:
        if leaving.is_dir():
            shutil.rmtree(leaving)
        elif leaving.exists():
            leaving.unlink()


def _upload(source: Path, target: AnyPath, last: str) -> None:
    files = sorted(file for file in source.rglob("*") if file.is_file())
    for file in sorted(files, key=lambda file: file.name == last):
        (target / file.relative_to(source).as_posix()).write_bytes(file.read_bytes())


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
