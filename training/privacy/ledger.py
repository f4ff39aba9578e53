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
it from here: what is released already costs nothing when it is used again. Each line's `check`
tells of damage (`training.privacy.ledger_file`).

A last line that a crash cut off counts for what its beginning says it was. Where too little of it
is left to say, it counts as a step, and as a table too if one was due: which of the two costs more
can change with what comes after, so that neither alone is never too little.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dp_accounting

from configs.schema import UserError
from training.differences import differences
from training.privacy.ledger_file import LedgerFile, damaged, header_of
from training.privacy.plan import PrivacyPlan

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
        self._file = LedgerFile(path)
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
        if path.exists():
            self._read()

    @classmethod
    def existing(cls, path: Path) -> Ledger:
        """The ledger at `path` with the plan written in it.

        Raises:
            UserError: If it cannot be read.
        """
        header = header_of(path)
        try:
            plan = PrivacyPlan.from_dict(header["plan"])
        except (ValueError, KeyError, TypeError) as error:
            raise damaged(path, f"line 1: {error}") from error
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
        entries = self._file.entries
        return {"releases": entries, "check": self._file.check_after(entries)}

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
        if self._file.entries < expected:
            raise UserError(
                f"{self._file.path}: is older than the newest checkpoint, which saw {expected} "
                f"releases; the privacy ledger records only {self._file.entries}. {way_out}"
            )
        if expected and self._file.check_after(expected) != mark["check"]:
            raise UserError(
                f"{self._file.path}: the privacy ledger is not that of the checkpoints: its first "
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
        self._append({"groups": {"step": step, "table": table}})
        self._tables[step] = table

    def record_validation(self, release: Mapping[str, Any]) -> None:
        """Records a release of validation examples, durably; every call is another release.

        Args:
            release: What it costs, as `HistogramRelease.to_dict` describes it.

        Raises:
            UserError: If it cannot be written; the release must then not be made.
        """
        self._append({"validation": dict(release)})
        self._validation.append(dict(release))

    def begin(self) -> None:
        """Writes the header, unless there is a ledger: a private run without one lost it.

        Raises:
            UserError: If it cannot be written.
        """
        if self._writes and not self._file.begun:
            self._file.begin({"plan": self._plan.to_dict(), "fingerprint": self._plan.fingerprint})

    def _append(self, *entries: dict[str, Any]) -> None:
        if not self._writes:
            return
        self.begin()
        if self._file.cut:
            self._file.mend(_entry(self._release_cut()))
        self._file.append(entries)

    def _read(self) -> None:
        for number, content in enumerate(self._file.read()):
            if number == 0:
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
        if self._file.cut:
            # As far as this file can tell it was never acted on; but since the same bytes could
            # be what damage left of a release, it is counted all the same.
            self._count_cut(self._release_cut())

    def _release_cut(self) -> Release:
        return Release(self._file.entries, f"{_CUT_OFF}{self._file.cut}")

    def _count_cut(self, release: Release) -> None:
        """Counts what is left of a line for all that it may have been, given those before it.

        A line on validation examples was not acted on when it was cut off, but may be what damage
        left of a step's: it counts as one.
        """
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

    def _refuse_other_plan(self, header: Mapping[str, Any]) -> None:
        if header["fingerprint"] == self._plan.fingerprint:
            return
        here = {**self._plan.to_dict(), "steps": header["plan"]["steps"]}
        changes = differences(header["plan"], json.loads(json.dumps(here)))
        raise UserError(
            f"{self._file.path}: the ledger was written under another privacy plan ({changes}). "
            "Use the recipe and the data it was written with, or a new run directory; what it "
            "records stays spent."
        )


def _entry(release: Release) -> dict[str, Any]:
    return {"release": release.step, "randomness": release.randomness}
