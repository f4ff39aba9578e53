"""Settings of what trains against the model: constraints, group DRO, an adversary.

Each is a second player: it watches how groups fare and changes what an example of a group counts
for. With privacy it may watch noisy tables only, which `fairness.releases` pays for.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Literal, Optional

from configs.schema.errors import require


@dataclass(frozen=True)
class ConstraintSettings:
    """A constraint on groups, held by Lagrange multipliers.

    Attributes:
        measure: What is bounded: how far a group's share of positive answers may lie from
            everybody's (`demographic_parity`: among all; `true_positive_rate_parity`: among those
            of the positive label, which is equal opportunity; `equalized_odds`: among those of
            each label), or a group's mean loss (`bounded_group_loss`). None for no constraint.
        slack: The distance of rates that is allowed, in [0, 1).
        loss_bound: The mean loss that `bounded_group_loss` allows every group.
        step_size: What a violation of 1 adds to a multiplier at one update: at every step, or
            with privacy at every release.
        multiplier_bound: The most that a multiplier can become.
        memory: Share that a running estimate of rates keeps of itself at every step, in [0, 1).
            With privacy every release stands alone.
    """

    measure: Optional[
        Literal[
            "demographic_parity",
            "true_positive_rate_parity",
            "equalized_odds",
            "bounded_group_loss",
        ]
    ] = None
    slack: float = 0.02
    loss_bound: Optional[float] = None
    step_size: float = 0.05
    multiplier_bound: float = 10.0
    memory: float = 0.9

    def __post_init__(self) -> None:
        key = "fairness.constraint"
        require(0 <= self.slack < 1, f"{key}.slack", self.slack, "a number in [0, 1)")
        require(0 < self.step_size < inf, f"{key}.step_size", self.step_size, "a number > 0")
        require(
            0 < self.multiplier_bound < inf,
            f"{key}.multiplier_bound",
            self.multiplier_bound,
            "a number > 0",
        )
        require(0 <= self.memory < 1, f"{key}.memory", self.memory, "a number in [0, 1)")
        bounds_loss = self.measure == "bounded_group_loss"
        require(
            (self.loss_bound is not None and self.loss_bound > 0)
            if bounds_loss
            else self.loss_bound is None,
            f"{key}.loss_bound",
            self.loss_bound,
            "a number > 0 with fairness.constraint.measure: bounded_group_loss, null without",
        )


@dataclass(frozen=True)
class GroupDroSettings:
    """Group DRO: the groups that lose most count most (Sagawa et al. 2020).

    Attributes:
        step_size: Factor of a group's mean loss in the exponent by which its weight grows at
            every step, or with privacy at every release. None for no group DRO.
        by_label: Whether groups are told apart by label too.
        adjustment: Added to a group's loss, divided by the square root of its number of people.
    """

    step_size: Optional[float] = None
    by_label: bool = False
    adjustment: float = 0.0

    def __post_init__(self) -> None:
        key = "fairness.group_dro"
        require(
            self.step_size is None or 0 < self.step_size < inf,
            f"{key}.step_size",
            self.step_size,
            "a number > 0, or null",
        )
        require(0 <= self.adjustment < inf, f"{key}.adjustment", self.adjustment, "a number >= 0")


@dataclass(frozen=True)
class AdversarySettings:
    """An adversary that guesses the group from the score (Zhang, Lemoine & Mitchell 2018).

    Attributes:
        parity: What it is shown: the score (`demographic_parity`), the score of those of the
            positive label (`equal_opportunity`), or score and label (`equalized_odds`). None for
            no adversary.
        weight: How far the model follows the gradient that makes the adversary worse; >= 0.
        learning_rate: Of the adversary's own Adam.
    """

    parity: Optional[Literal["demographic_parity", "equal_opportunity", "equalized_odds"]] = None
    weight: float = 1.0
    learning_rate: float = 0.01

    def __post_init__(self) -> None:
        key = "fairness.adversary"
        require(0 <= self.weight < inf, f"{key}.weight", self.weight, "a number >= 0")
        require(
            0 < self.learning_rate < inf, f"{key}.learning_rate", self.learning_rate, "a number > 0"
        )


@dataclass(frozen=True)
class ReleaseSettings:
    """Noisy tables of the training examples by group and label, paid for in the ledger.

    Attributes:
        noise_multiplier: Standard deviation of the noise on every number of a table, over its
            sensitivity of one person; epsilon covers it, and what it costs is noise that the
            gradients must carry beside. None for no such release.
        every: Epochs between two releases.
        loss_clip: Losses above it count as it, where a table adds up losses.
    """

    noise_multiplier: Optional[float] = None
    every: int = 1
    loss_clip: float = 2.0

    def __post_init__(self) -> None:
        key = "fairness.releases"
        require(
            self.noise_multiplier is None or 0 < self.noise_multiplier < inf,
            f"{key}.noise_multiplier",
            self.noise_multiplier,
            "a number > 0, or null",
        )
        require(self.every >= 1, f"{key}.every", self.every, "a whole number of epochs >= 1")
        require(0 < self.loss_clip < inf, f"{key}.loss_clip", self.loss_clip, "a number > 0")
