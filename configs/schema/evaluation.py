"""Settings of the `evaluation` section: what is measured, and of whom."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from configs.schema.errors import require


@dataclass(frozen=True)
class EvaluationSettings:
    """What is measured, and of whom.

    Attributes:
        attributes: Group attributes to compare; none takes every attribute of the data.
        intersections: Also compare the intersection of these attributes with one another.
        positive_label: Label counted as the favourable decision in selection rates; none takes
            the last label of a two-label task, and one-vs-rest otherwise.
        minimum_group_size: Groups with fewer examples are listed but kept out of the gaps.
        bootstrap_resamples: Resamples behind the 95 % intervals; 0 for none.
        batch_size: Examples per evaluation batch.
        seed: Seed of the bootstrap.
    """

    attributes: Optional[list[str]] = None
    intersections: bool = True
    positive_label: Optional[str] = None
    minimum_group_size: int = 30
    bootstrap_resamples: int = 500
    batch_size: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (
            ("minimum_group_size", 1),
            ("bootstrap_resamples", 0),
            ("batch_size", 1),
        ):
            value = getattr(self, name)
            require(value >= least, f"evaluation.{name}", value, f"a whole number >= {least}")
