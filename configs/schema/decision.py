"""Settings of the `decision` section: how scores become answers once training is over."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import Literal, Optional

from configs.schema.errors import require

_OF_EQUALIZED_ODDS = ("accuracy_score", "balanced_accuracy_score")


@dataclass(frozen=True)
class ThresholdSettings:
    """A threshold for each group, fitted on the validation split after training.

    Attributes:
        attribute: Group attribute whose groups get thresholds of their own; none leaves all at
            the label of the largest score.
        constraint: What the groups are to have in common, as fairlearn's `ThresholdOptimizer`
            names it.
        objective: What is as large as it can be under the constraint.
        tolerance: Largest gap that the constraint leaves between groups on the validation split;
            none leaves none. Not with `equalized_odds`.
        strength: Share in which the thresholds replace the label of the largest score: 1 wholly,
            0.5 by an even draw between the two.
    """

    attribute: Optional[str] = None
    constraint: Literal[
        "demographic_parity",
        "equalized_odds",
        "true_positive_rate_parity",
        "false_positive_rate_parity",
        "true_negative_rate_parity",
        "false_negative_rate_parity",
    ] = "demographic_parity"
    objective: Literal[
        "accuracy_score",
        "balanced_accuracy_score",
        "selection_rate",
        "true_positive_rate",
        "true_negative_rate",
    ] = "accuracy_score"
    tolerance: Optional[float] = None
    strength: float = 1.0

    def __post_init__(self) -> None:
        key = "decision.thresholds"
        odds = self.constraint == "equalized_odds"
        require(
            not odds or self.objective in _OF_EQUALIZED_ODDS,
            f"{key}.objective",
            self.objective,
            f"one of {', '.join(_OF_EQUALIZED_ODDS)} with {key}.constraint: equalized_odds",
        )
        require(
            self.tolerance is None or 0 < self.tolerance < 1,
            f"{key}.tolerance",
            self.tolerance,
            "a gap in (0, 1), or null for none",
        )
        require(
            not odds or self.tolerance is None,
            f"{key}.tolerance",
            self.tolerance,
            f"null with {key}.constraint: equalized_odds, which {key}.strength relaxes",
        )
        require(0 < self.strength <= 1, f"{key}.strength", self.strength, "a share in (0, 1]")


@dataclass(frozen=True)
class AbstainSettings:
    """Where no answer is given.

    Attributes:
        width: Answers are withheld where the score is less than this from one at which the answer
            changes; 0 answers always.
    """

    width: float = 0.0

    def __post_init__(self) -> None:
        require(0 <= self.width < 0.5, "decision.abstain.width", self.width, "a score in [0, 0.5)")


@dataclass(frozen=True)
class DecisionSettings:
    """How scores become answers once training is over; as it stands, by the largest score.

    Attributes:
        thresholds: A threshold for each group.
        abstain: Where no answer is given.
        epsilon: With privacy: privacy loss that fitting thresholds may cost the people of the
            validation split, whom the epsilon of training does not cover.
        delta: With privacy: probability with which that epsilon may fail; none takes N^-1.1 for N
            validation examples.
        bins: With privacy: bins of the score that are counted, with noise, to fit thresholds.
    """

    thresholds: ThresholdSettings = field(default_factory=ThresholdSettings)
    abstain: AbstainSettings = field(default_factory=AbstainSettings)
    epsilon: Optional[float] = None
    delta: Optional[float] = None
    bins: int = 16

    def __post_init__(self) -> None:
        require(
            self.epsilon is None or 0 < self.epsilon < inf,
            "decision.epsilon",
            self.epsilon,
            "a number > 0",
        )
        require(
            self.delta is None or 0 < self.delta < 1,
            "decision.delta",
            self.delta,
            "a probability in (0, 1)",
        )
        require(
            2 <= self.bins <= 10_000, "decision.bins", self.bins, "a whole number from 2 to 10,000"
        )

    @property
    def asked_for(self) -> bool:
        """Whether anything but the largest score decides."""
        return self.thresholds.attribute is not None or self.abstain.width > 0
