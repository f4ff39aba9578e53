"""One fingerprint of many files, so that a run knows its data again.

A checkpoint or a ledger goes on only over the data it began with, and two seeded private runs over
data that differ in one example must not share their noise: both rest on these digests.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from configs.assets import sha256_of

_WORKERS = 4 * (os.cpu_count() or 1)
_WINDOW = 64 * _WORKERS


def sha256_of_files(files: Iterable[tuple[str, Path | str]]) -> str:
    """Returns a SHA-256 over the names and the contents of files, whatever order they come in.

    Every byte is read, in parallel. A file that cannot be read counts by its name alone: whether
    that is an error is for whoever uses it to say.

    Args:
        files: (name that stays the same wherever the data lie, path); paths may be `epath`s.
    """
    entries = sorted(files, key=lambda entry: entry[0])
    digest = hashlib.sha256()
    with ThreadPoolExecutor(_WORKERS) as pool:
        # Window by window: a waiting task takes more memory than its file's name.
        for start in range(0, len(entries), _WINDOW):
            window = entries[start : start + _WINDOW]
            contents = pool.map(lambda entry: _content(entry[1]), window)
            for (name, _), content in zip(window, contents, strict=True):
                # A length before each name: no two lists of files give the same bytes.
                encoded = name.encode("utf-8", "surrogateescape")
                digest.update(f"{len(encoded)}:".encode() + encoded + content.encode())
    return digest.hexdigest()


def _content(path: Path | str) -> str:
    try:
        return sha256_of(Path(path) if isinstance(path, str) else path)
    except OSError:
        return "-"
