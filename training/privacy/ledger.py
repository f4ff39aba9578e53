"""The ledger: every noisy release, on disk before it is used. It never under-counts.

A line is written and flushed to the disk *before* the noisy gradient reaches the weights, so a
crash in between leaves budget spent rather than lost. A step that is run again after a crash is
the same release only if its randomness is the same (a seeded run); otherwise it is counted again.

File format: JSON lines. The first is a header (format version, plan and its fingerprint); each
further line is one release: `{"release": step, "randomness": fingerprint}`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from configs.schema import UserError
from training.files import write_atomically
from training.privacy.plan import PrivacyPlan

_VERSION = 1


class Ledger:
    """An append-only record of releases under one plan.

    Args:
        path: The ledger file; created by the first release if absent.
        plan: The plan every release falls under.

    Raises:
        UserError: If the file is damaged or was written under another plan.
    """

    def __init__(self, path: Path, plan: PrivacyPlan):
        self._path = path
        self._plan = plan
        self._releases: set[tuple[int, str]] = set()
        if path.exists():
            self._read()

    @classmethod
    def existing(cls, path: Path) -> Ledger:
        """The ledger at `path` with the plan written in it.

        Raises:
            UserError: If it cannot be read.
        """
        try:
            with open(path, encoding="utf-8") as file:
                plan = PrivacyPlan.from_dict(json.loads(file.readline())["plan"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _damaged(path, error) from error
        return cls(path, plan)

    @property
    def plan(self) -> PrivacyPlan:
        """The plan every release falls under."""
        return self._plan

    @property
    def releases(self) -> int:
        """Distinct releases recorded."""
        return len(self._releases)

    @property
    def epsilon(self) -> float:
        """Epsilon spent by everything recorded, at the plan's delta."""
        return self._plan.epsilon(self.releases)

    def allows(self, step: int, randomness: str) -> bool:
        """Whether the release of `step` stays within the releases that the plan promised."""
        return (step, randomness) in self._releases or self.releases < self._plan.steps

    def record(self, step: int, randomness: str) -> None:
        """Records the release of `step`, durably, unless it is already there.

        Args:
            step: The optimizer step about to be taken.
            randomness: `Randomness.fingerprint`: equal fingerprints at equal steps mean equal
                noise and equal batches, so the same release.
        """
        if (step, randomness) in self._releases:
            return
        if not self._path.exists():
            plan = self._plan.to_dict()
            header = {"ledger": _VERSION, "plan": plan, "fingerprint": self._plan.fingerprint}
            write_atomically(self._path, json.dumps(header) + "\n")
        self._append({"release": step, "randomness": randomness})
        self._releases.add((step, randomness))

    def _append(self, entry: dict[str, Any]) -> None:
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _read(self) -> None:
        text = self._path.read_text(encoding="utf-8")
        lines = text.split("\n")
        complete, rest = lines[:-1], lines[-1]
        try:
            header, *entries = [json.loads(line) for line in complete]
            fingerprint = header["fingerprint"]
            releases = {(entry["release"], entry["randomness"]) for entry in entries}
        except (ValueError, KeyError, TypeError) as error:
            raise _damaged(self._path, error) from error
        if fingerprint != self._plan.fingerprint:
            raise UserError(
                f"{self._path}: the ledger was written under another privacy plan (clipping, "
                "noise, batch size, delta or number of examples differ). Use the recipe it was "
                "written with, or a new run directory."
            )
        self._releases = releases
        if rest:
            # A line cut off by a crash was never acted on, as far as this file can tell; since
            # the same bytes could be what damage left of a release, it is counted all the same.
            release, randomness = len(entries), f"cut off: {rest}"
            cut = json.dumps({"release": release, "randomness": randomness})
            write_atomically(self._path, "\n".join([*complete, cut, ""]))
            self._releases.add((release, randomness))


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(
        f"{path}: the privacy ledger is damaged ({error}), so what was spent is unknown. Start a "
        "new run directory; this run's budget counts as spent."
    )
