"""The ledger's file: lines of JSON, in which a change, a loss and a cut are seen.

Every line's `check` is a hash of its content and of the line before, so that a flipped byte and a
line taken out or put in are seen. It guards against accidents, not against forgers. Lines are on
the disk, or in the store, when the call that adds them returns; what a crash left of a last one is
kept apart.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from configs.schema import UserError
from training.files import append_durably, write_atomically

_VERSION = 2
_CHECK_DIGITS = 16


class LedgerFile:
    """A header and the entries after it.

    Args:
        path: The file; it need not exist.

    Attributes:
        path: The file.
        cut: What is left of a last line that is not whole; "" where all are.
    """

    def __init__(self, path: Path):
        self.path = path
        self.cut = ""
        # Of every whole line, the header's first.
        self._checks: list[str] = []

    @property
    def entries(self) -> int:
        """Whole lines after the header."""
        return max(0, len(self._checks) - 1)

    @property
    def begun(self) -> bool:
        """Whether there is a header."""
        return bool(self._checks)

    def check_after(self, entries: int) -> str:
        """Tells all that stands up to the entry of that number from any other past."""
        return self._checks[entries] if self._checks else ""

    def read(self) -> Iterator[dict[str, Any]]:
        """Yields the header and every entry; reading changes nothing in the file.

        Raises:
            UserError: If it is damaged, or of another format.
        """
        *lines, self.cut = self.path.read_text(encoding="utf-8", errors="replace").split("\n")
        if not lines:
            raise damaged(self.path, "it has no header")
        for number, line in enumerate(lines, start=1):
            content = _parsed(self.path, line, number)
            if number == 1:
                _refuse_other_format(self.path, content)
            check = content.pop("check", None)
            if check != _check(self._last, content):
                raise damaged(
                    self.path, f"line {number} was changed, or a line before it is missing"
                )
            self._checks.append(check)
            yield content

    def begin(self, header: Mapping[str, Any]) -> None:
        """Writes the header.

        Raises:
            UserError: If it cannot be written.
        """
        content = {"ledger": _VERSION, **header}
        write_atomically(self.path, _line("", content))
        self._checks.append(_check("", content))

    def append(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Adds entries in one write, durably: all of them or none.

        Raises:
            UserError: If they cannot be written.
        """
        checks, lines = [self._last], []
        for entry in entries:
            lines.append(_line(checks[-1], entry))
            checks.append(_check(checks[-1], entry))
        append_durably(self.path, "".join(lines))
        self._checks += checks[1:]

    def mend(self, entry: Mapping[str, Any]) -> None:
        """Puts an entry in the place of what is left of the last line.

        Raises:
            UserError: If it cannot be written.
        """
        text = self.path.read_text(encoding="utf-8", errors="replace")
        whole = text[: text.rfind("\n") + 1]
        write_atomically(self.path, whole + _line(self._last, entry))
        self._checks.append(_check(self._last, entry))
        self.cut = ""

    @property
    def _last(self) -> str:
        return self._checks[-1] if self._checks else ""


def header_of(path: Path) -> dict[str, Any]:
    """The first line of a ledger's file.

    Raises:
        UserError: If it cannot be read, or is of another format.
    """
    text = path.read_text(encoding="utf-8", errors="replace")
    header = _parsed(path, text.partition("\n")[0], 1)
    _refuse_other_format(path, header)
    return header


def damaged(path: Path, reason: str) -> UserError:
    """The error of a file that cannot be vouched for."""
    return UserError(
        f"{path}: the privacy ledger is damaged ({reason}), so what was spent is unknown. Restore "
        "it from a copy; or start in a new run directory, and count all that this run planned to "
        "spend as spent."
    )


def _line(previous: str, content: Mapping[str, Any]) -> str:
    return json.dumps({**content, "check": _check(previous, content)}) + "\n"


def _check(previous: str, content: Mapping[str, Any]) -> str:
    text = previous + json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:_CHECK_DIGITS]


def _parsed(path: Path, line: str, number: int) -> dict[str, Any]:
    try:
        content = json.loads(line)
    except ValueError as error:
        raise damaged(path, f"line {number} is not JSON") from error
    if not isinstance(content, dict):
        raise damaged(path, f"line {number} is no entry")
    return content


def _refuse_other_format(path: Path, header: Mapping[str, Any]) -> None:
    version = header.get("ledger")
    if isinstance(version, int) and version != _VERSION:
        raise UserError(
            f"{path}: the privacy ledger has format {version}, and this Sterling reads format "
            f"{_VERSION}. Finish the run with the Sterling that began it."
        )
