"""Settings of the `privacy.sampling` section: how batches are drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Optional

from configs.schema.errors import require


@dataclass(frozen=True)
class SamplingSettings:
    """How batches are drawn. `docs/accounting.md` says what each costs and when it is proven.

    With `privacy.unit: user` it is users that are drawn and counted, in place of examples.

    Attributes:
        method: `poisson`: each example independently with probability batch_size / N.
            `truncated_poisson`: the same, but of a batch larger than `max_batch` the excess is
            dropped at random, so that every step has one fixed shape. `fixed_size`: exactly
            batch_size examples, without replacement. `balls_in_bins`: each example in one random
            step of every epoch. `shuffled`: random order, cut into batches; no amplification.
            `cyclic`: step t draws by Poisson from group t mod `bands` (for banded matrix
            factorisation).
        max_batch: For `truncated_poisson`, the most examples a step may have; none takes
            batch_size and six standard deviations.
        bands: For `cyclic`, the number of groups.
    """

    method: Literal[
        "poisson", "truncated_poisson", "fixed_size", "balls_in_bins", "shuffled", "cyclic"
    ] = "poisson"
    max_batch: Optional[int] = None
    bands: Optional[int] = None

    def __post_init__(self) -> None:
        for name, method in (("max_batch", "truncated_poisson"), ("bands", "cyclic")):
            value = getattr(self, name)
            require(
                value is None or (value >= 1 and self.method == method),
                f"privacy.sampling.{name}",
                value,
                f"a whole number >= 1 where privacy.sampling.method is {method}, else null",
            )
        require(
            self.method != "cyclic" or self.bands is not None,
            "privacy.sampling.bands",
            self.bands,
            "a whole number >= 1, because privacy.sampling.method is cyclic",
        )
