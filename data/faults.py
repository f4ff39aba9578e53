"""What happens to an example that cannot be used: stop with one clear line, or count and go on.

Promises: with `data.on_error: raise` the first fault ends loading and names file and row; with
`skip` every fault is kept as one line, and the log gets one summary per split. A fault that shows
only while training reads (`data.cache: none`) ends the run in either case: the examples must not
become fewer then, because epsilon was computed for their number.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, field

from configs.schema.errors import UserError

_log = logging.getLogger(__name__)
# How TensorFlow words an exception that a function of Python's raised inside a pipeline.
_RAISED = re.compile(rf"\b{UserError.__name__}: (.+)")


@dataclass
class Faults:
    """Collects the faults of one source.

    Args:
        skip: Keep faults instead of raising the first.
        lines: Split name -> one line per example left out.
    """

    skip: bool
    lines: dict[str, list[str]] = field(default_factory=dict)

    def add(self, split: str, place: str, problem: str) -> None:
        """Reports that the example at `place` cannot be used.

        Raises:
            UserError: Faults are not to be skipped.
        """
        line = f"{place}: {problem}"
        if not self.skip:
            raise UserError(f"{line}. (data.on_error: skip leaves such examples out)")
        self.lines.setdefault(split, []).append(line)

    def log(self) -> None:
        """Writes one warning per split that lost examples."""
        for split, lines in self.lines.items():
            _log.warning(
                "Left out %d examples of %s (data.on_error: skip); the first: %s",
                len(lines),
                split,
                lines[0],
            )

    def frozen(self) -> dict[str, tuple[str, ...]]:
        """Returns the lines in the form of `DatasetInfo.skipped`."""
        return {split: tuple(lines) for split, lines in self.lines.items()}


def fault_in(error: BaseException) -> UserError | None:
    """Returns the `UserError` that a `tf.data` pipeline's reader raised, if that is what failed.

    Args:
        error: What iterating raised. TensorFlow keeps of the original no more than its words.
    """
    found = _RAISED.search(str(error))
    return None if found is None else UserError(found[1].strip())
