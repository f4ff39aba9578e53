"""Independent Gaussian noise at every step: DP-SGD (Abadi et al. 2016, arXiv:1607.00133).

How much may change over the run by a public schedule. Each step then costs what its own multiplier
costs, and the steps compose as they would with equal ones: the schedule looks at no data, so that
adaptive composition (Mironov 2017, arXiv:1702.07476, proposition 1) covers it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from math import inf
from typing import ClassVar

import numpy as np

from configs.schema import require
from training.privacy.mechanisms.base import Draws
from training.randomness import Randomness


@dataclass(frozen=True)
class GaussianMechanism:
    """N(0, (factor * noise_multiplier * sensitivity)^2) on every coordinate, fresh at every step.

    Attributes:
        noise_multiplier: At factor 1.
        levels: (first step, factor) in the order of steps; a factor holds until the next.
    """

    method: ClassVar[str] = "gaussian"
    slots: ClassVar[int] = 0
    noise_multiplier: float
    levels: tuple[tuple[int, float], ...] = ((0, 1.0),)

    def __post_init__(self) -> None:
        levels = tuple((int(first), float(factor)) for first, factor in self.levels)
        object.__setattr__(self, "levels", levels)
        firsts = [first for first, _ in levels]
        require(
            firsts[:1] == [0] and all(a < b for a, b in pairwise(firsts)),
            "privacy.mechanism.milestones",
            firsts,
            "growing steps of which the first is 0",
        )
        require(
            all(0 < factor < inf for _, factor in levels),
            "privacy.mechanism.milestones",
            [factor for _, factor in levels],
            "factors > 0",
        )

    @property
    def needs_one_root(self) -> bool:
        # Steps that cost differently cannot be run again at the price of those left out.
        return len(self.levels) > 1

    def with_noise(self, noise_multiplier: float) -> GaussianMechanism:
        return replace(self, noise_multiplier=noise_multiplier)

    def multiplier_at(self, step: int) -> float:
        """The noise multiplier of `step`."""
        return self.noise_multiplier * self._factor(step)

    def multipliers(self, steps: int) -> Iterator[tuple[float, int]]:
        """(noise multiplier, number of steps with it) of the first `steps` steps, in order."""
        ends = [first for first, _ in self.levels[1:]] + [steps]
        for (first, factor), end in zip(self.levels, ends, strict=True):
            if first < steps:
                yield self.noise_multiplier * factor, min(end, steps) - first

    def draws(self, step: int, randomness: Randomness, tensors: int) -> Draws:
        seeds = randomness.stateless_seeds("noise", step, tensors)
        return Draws(seeds[None], np.full(1, self._factor(step), np.float32))

    def describe(self, stddev: float) -> str:
        text = (
            f"independent Gaussian noise of standard deviation {stddev:.6g} "
            f"(noise multiplier {self.noise_multiplier:.6g})"
        )
        if len(self.levels) > 1:
            factors = ", ".join(f"{factor:.4g} from step {first}" for first, factor in self.levels)
            text += f" times a schedule ({factors})"
        return text

    def _factor(self, step: int) -> float:
        return self.levels[bisect_right(self.levels, (step, inf)) - 1][1]
