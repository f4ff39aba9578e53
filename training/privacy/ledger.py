"""The ledger: every noisy release, on disk before it is used. It never under-counts.

A line is written and flushed to the disk *before* the noisy gradient reaches the weights, so a
crash in between leaves budget spent rather than lost. A step that is run again after a crash is
the same release only if its randomness is the same (a seeded run); otherwise it is counted again.
A ledger ahead of the newest checkpoint is therefore ordinary; one behind it, or with another past
than the checkpoint saw, is refused (`require_past`).

File format: JSON lines. The first is a header (format version, plan and its fingerprint); each
further line is one release: `{"release": step, "randomness": fingerprint, "check": ...}`, or one
of the validation examples: `{"validation": {...}, "check": ...}`, which costs other people and is
accounted by itself (`training.privacy.score_histogram`), or one noisy table of training examples
by group, `{"groups": {"step": ..., "table": ...}, "check": ...}`, which the plan has counted in
(`training.privacy.group_releases`). The table is written down, and a step that is run again takes
it from here: what is released already costs nothing when it is used again. Every
line's `check` is a hash of its content and of the line before, so that a flipped byte and a line
taken out or put in are seen. It guards against accidents, not against forgers.

A last line that a crash cut off counts for what its beginning says it was. Where too little of it
is left to say, it counts as a step, and as a table too if one was due: which of the two costs more
can change with what comes after, so that neither alone is never too little.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dp_accounting

from configs.schema import UserError
from training.differences import differences
from training.files import append_durably, write_atomically
from training.privacy.plan import PrivacyPlan

_VERSION = 2
_CHECK_DIGITS = 16
_CUT_OFF = "cut off: "
# How lines of each kind begin.
_STEP = '{"release": '
_TABLE = '{"groups": '


@dataclass(frozen=True)
class Release:
    """One noisy gradient.

    Attributes:
        step: The optimizer step that used it, or was about to.
        randomness: Equal for two releases of a step only if they are one.
    """

    step: int
    randomness: str


class Ledger:
    """An append-only record of releases under one plan.

    Reading it changes nothing, so it may be read while a run writes it.

    Args:
        path: The ledger file; created by the first release if absent.
        plan: The plan every release falls under.
        writes: Whether releases go to the file. One of several workers writes them; the others
            read the file when they start and count along.

    Raises:
        UserError: If the file is damaged or was written under another plan.
    """

    def __init__(self, path: Path, plan: PrivacyPlan, *, writes: bool = True):
        self._path = path
        self._plan = plan
        self._writes = writes
        # In the order of their lines, which Python's dictionaries keep.
        self._releases: dict[Release, None] = {}
        # Releases of validation examples, each as it was described.
        self._validation: list[dict[str, Any]] = []
        # Step -> the noisy table of groups released before it.
        self._tables: dict[int, list[Any]] = {}
        # Lines cut off that were a table, or may have been.
        self._cut_tables: dict[Release, None] = {}
        # Of every whole line, the header's first.
        self._checks: list[str] = []
        # What a crash left of a last line.
        self._cut = ""
        if path.exists():
            self._read()

    @classmethod
    def existing(cls, path: Path) -> Ledger:
        """The ledger at `path` with the plan written in it.

        Raises:
            UserError: If it cannot be read.
        """
        header = _parsed(path, path.read_text(encoding="utf-8").partition("\n")[0], 1)
        _refuse_other_format(path, header)
        try:
            plan = PrivacyPlan.from_dict(header["plan"])
        except (ValueError, KeyError, TypeError) as error:
            raise _damaged(path, f"line 1: {error}") from error
        return cls(path, plan)

    @property
    def plan(self) -> PrivacyPlan:
        """The plan every release falls under."""
        return self._plan

    @property
    def history(self) -> tuple[Release, ...]:
        """Everything recorded, in order."""
        return tuple(self._releases)

    @property
    def releases(self) -> int:
        """Distinct releases recorded."""
        return len(self._releases)

    @property
    def validation(self) -> tuple[dict[str, Any], ...]:
        """Every release of validation examples, in order, as `record_validation` was told."""
        return tuple(self._validation)

    @property
    def tables(self) -> int:
        """Noisy tables of groups recorded, and lines that may have been one."""
        return len(self._tables) + len(self._cut_tables)

    @property
    def recorded(self) -> int:
        """Releases of any kind."""
        lines = {*self._releases, *self._cut_tables}
        return len(lines) + len(self._validation) + len(self._tables)

    @property
    def event(self) -> dp_accounting.DpEvent:
        """What everything recorded cost the training examples."""
        return self._plan.event(self.releases, self.tables)

    @property
    def epsilon(self) -> float:
        """Epsilon spent by everything recorded, at the plan's delta."""
        return self._plan.epsilon(self.releases, self.tables)

    @property
    def mark(self) -> dict[str, Any]:
        """Where the ledger stands, for a checkpoint to keep; fit for JSON."""
        return {"releases": self._lines, "check": self._checks[-1] if self._checks else ""}

    @property
    def _lines(self) -> int:
        """Releases whose lines are whole."""
        return max(0, len(self._checks) - 1)

    def require_past(self, mark: Mapping[str, Any]) -> None:
        """Makes sure that this is the ledger of which `mark` was taken, perhaps grown since.

        Raises:
            UserError: If it records less than it did then, or something else.
        """
        expected = mark["releases"]
        way_out = (
            "Restore the ledger that belongs to the checkpoints; or start in a new run directory, "
            "and count what this run planned to spend as spent."
        )
        if self._lines < expected:
            raise UserError(
                f"{self._path}: is older than the newest checkpoint, which saw {expected} "
                f"releases; the privacy ledger records only {self._lines}. {way_out}"
            )
        if expected and self._checks[expected] != mark["check"]:
            raise UserError(
                f"{self._path}: the privacy ledger is not that of the checkpoints: its first "
                f"{expected} releases are others. {way_out}"
            )

    def allows(self, step: int, randomness: str) -> bool:
        """Whether the release of `step` stays within the releases that the plan promised."""
        return self.count_allowed(range(step, step + 1), randomness) == 1

    def count_allowed(self, steps: range, randomness: str) -> int:
        """How many of `steps`, from the first, stay within the releases that the plan promised."""
        left = self._plan.steps - self.releases
        for number, step in enumerate(steps):
            if Release(step, randomness) not in self._releases:
                if not left:
                    return number
                left -= 1
        return len(steps)

    def record(self, step: int, randomness: str) -> None:
        """Records the release of `step`, durably, unless it is already there.

        Args:
            step: The optimizer step about to be taken.
            randomness: Equal for two releases of a step only if batch and noise are equal, and so
                are the releases.

        Raises:
            UserError: If it cannot be written; the release must then not be used.
        """
        self.record_group(range(step, step + 1), randomness)

    def record_group(self, steps: range, randomness: str) -> None:
        """As `record` of each of `steps`, in one write: all are on the disk when it returns.

        Raises:
            UserError: If they cannot be written; none of the releases must then be used.
        """
        named = (Release(step, randomness) for step in steps)
        new = [release for release in named if release not in self._releases]
        if not new:
            return
        if self._writes:
            self.begin()
            if self._cut:
                self._count_what_was_cut()
            self._append(*map(_entry, new))
        self._releases.update(dict.fromkeys(new))

    def table(self, step: int) -> list[Any] | None:
        """The noisy table released before `step`, as `record_table` was told; None if none was."""
        return self._tables.get(step)

    def allows_table(self) -> bool:
        """Whether one more table stays within those that the plan promised."""
        return self.tables < self._plan.tables(self._plan.steps)

    def record_table(self, step: int, table: list[Any]) -> None:
        """Records the noisy table of groups released before `step`, durably.

        Args:
            step: The optimizer step that comes next.
            table: The noisy numbers, plain data.

        Raises:
            UserError: If it cannot be written; the table must then not be used.
        """
        if self._writes:
            self.begin()
            if self._cut:
                self._count_what_was_cut()
            self._append({"groups": {"step": step, "table": table}})
        self._tables[step] = table

    def record_validation(self, release: Mapping[str, Any]) -> None:
        """Records a release of validation examples, durably; every call is another release.

        Args:
            release: What it costs, as `HistogramRelease.to_dict` describes it.

        Raises:
            UserError: If it cannot be written; the release must then not be made.
        """
        if self._writes:
            self.begin()
            if self._cut:
                self._count_what_was_cut()
            self._append({"validation": dict(release)})
        self._validation.append(dict(release))

    def begin(self) -> None:
        """Writes the header, unless there is a ledger: a private run without one lost it.

        Raises:
            UserError: If it cannot be written.
        """
        if self._checks or not self._writes:
            return
        header = {
            "ledger": _VERSION,
            "plan": self._plan.to_dict(),
            "fingerprint": self._plan.fingerprint,
        }
        write_atomically(self._path, self._last_line(header))
        self._checks.append(_check("", header))

    def _append(self, *entries: dict[str, Any]) -> None:
        checks, lines = [self._checks[-1]], []
        for entry in entries:
            lines.append(_line(checks[-1], entry))
            checks.append(_check(checks[-1], entry))
        append_durably(self._path, "".join(lines))
        self._checks += checks[1:]

    def _last_line(self, content: dict[str, Any]) -> str:
        return _line(self._checks[-1] if self._checks else "", content)

    def _read(self) -> None:
        *lines, self._cut = self._path.read_text(encoding="utf-8", errors="replace").split("\n")
        if not lines:
            raise _damaged(self._path, "it has no header")
        for number, line in enumerate(lines, start=1):
            content = _parsed(self._path, line, number)
            if number == 1:
                _refuse_other_format(self._path, content)
            check = content.pop("check", None)
            if check != _check(self._checks[-1] if self._checks else "", content):
                raise _damaged(
                    self._path, f"line {number} was changed, or a line before it is missing"
                )
            self._checks.append(check)
            if number == 1:
                self._refuse_other_plan(content)
            elif "validation" in content:
                self._validation.append(content["validation"])
            elif "groups" in content:
                self._tables[content["groups"]["step"]] = content["groups"]["table"]
            else:
                release = Release(content["release"], content["randomness"])
                if release.randomness.startswith(_CUT_OFF):
                    self._count_cut(release)
                else:
                    self._releases[release] = None
        if self._cut:
            # As far as this file can tell it was never acted on; but since the same bytes could
            # be what damage left of a release, it is counted all the same.
            self._count_cut(self._release_cut())

    def _release_cut(self) -> Release:
        return Release(self._lines, f"{_CUT_OFF}{self._cut}")

    def _count_cut(self, release: Release) -> None:
        """Counts what is left of a line for all that it may have been, given those before it."""
        left = release.randomness.removeprefix(_CUT_OFF)
        is_table = self._plan.group_releases is not None and left.startswith(_TABLE)
        is_step = left.startswith(_STEP)
        if is_table or (not is_step and self._awaits_table()):
            self._cut_tables[release] = None
        if not is_table:
            self._releases[release] = None

    def _awaits_table(self) -> bool:
        """Whether a table is due before the step that comes next, or before an earlier one."""
        if self._plan.group_releases is None:
            return False
        upcoming = max((release.step for release in self._releases), default=-1) + 1
        # One that was cut off is awaited still: it is released again.
        return len(self._tables) < self._plan.group_releases.within(upcoming + 1)

    def _count_what_was_cut(self) -> None:
        release, self._cut = self._release_cut(), ""
        text = self._path.read_text(encoding="utf-8", errors="replace")
        whole = text[: text.rfind("\n") + 1]
        write_atomically(self._path, whole + self._last_line(_entry(release)))
        self._checks.append(_check(self._checks[-1], _entry(release)))

    def _refuse_other_plan(self, header: Mapping[str, Any]) -> None:
        if header["fingerprint"] == self._plan.fingerprint:
            return
        here = {**self._plan.to_dict(), "steps": header["plan"]["steps"]}
        changes = differences(header["plan"], json.loads(json.dumps(here)))
        raise UserError(
            f"{self._path}: the ledger was written under another privacy plan ({changes}). Use "
            "the recipe and the data it was written with, or a new run directory; what it records "
            "stays spent."
        )


def _entry(release: Release) -> dict[str, Any]:
    return {"release": release.step, "randomness": release.randomness}


def _line(previous: str, content: Mapping[str, Any]) -> str:
    return json.dumps({**content, "check": _check(previous, content)}) + "\n"


def _check(previous: str, content: Mapping[str, Any]) -> str:
    text = previous + json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:_CHECK_DIGITS]


def _parsed(path: Path, line: str, number: int) -> dict[str, Any]:
    try:
        content = json.loads(line)
    except ValueError as error:
        raise _damaged(path, f"line {number} is not JSON") from error
    if not isinstance(content, dict):
        raise _damaged(path, f"line {number} is no entry")
    return content


def _refuse_other_format(path: Path, header: Mapping[str, Any]) -> None:
    version = header.get("ledger")
    if isinstance(version, int) and version != _VERSION:
        raise UserError(
            f"{path}: the privacy ledger has format {version}, and this Sterling reads format "
            f"{_VERSION}. Finish the run with the Sterling that began it."
        )


def _damaged(path: Path, reason: str) -> UserError:
    return UserError(
        f"{path}: the privacy ledger is damaged ({reason}), so what was spent is unknown. Restore "
        "it from a copy; or start in a new run directory, and count all that this run planned to "
        "spend as spent."
    )
