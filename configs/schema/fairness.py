"""Settings of the `fairness` section: how training is changed so that groups fare alike."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import Any, Literal, Optional

from configs.schema.errors import require
from configs.schema.group_games import (
    AdversarySettings,
    ConstraintSettings,
    GroupDroSettings,
    ReleaseSettings,
)
from configs.schema.word_lists import require_word_lists


@dataclass(frozen=True)
class PenaltySettings:
    """Unfairness added to the loss: F = task loss + weight * unfairness.

    Attributes:
        measure: How two groups' scores are compared within a batch: `rate_gap` (squared
            difference of mean scores), `mmd` (maximum mean discrepancy, all of the distribution)
            or `correlation` (squared, of score and membership). None for no penalty.
        parity: Among whom: `demographic_parity` (everybody), `equal_opportunity` (those of the
            positive label) or `equalized_odds` (those of each label).
        weight: How much unfairness counts against the task loss; >= 0.
    """

    measure: Optional[Literal["rate_gap", "mmd", "correlation"]] = None
    parity: Literal["demographic_parity", "equal_opportunity", "equalized_odds"] = (
        "demographic_parity"
    )
    weight: float = 1.0

    def __post_init__(self) -> None:
        key = "fairness.penalty.weight"
        require(0 <= self.weight < inf, key, self.weight, "a number >= 0")


@dataclass(frozen=True)
class SwapSettings:
    """Counterfactual augmentation: training examples changed in what should not matter.

    Attributes:
        word_lists: Name -> interchangeable terms, as `evaluation.counterfactual.word_lists` has
            them: the path of a CSV file, or rows of which the first is the header. An example has
            one version more for each column but the first of each list, every term exchanged
            for that of so many columns on; none for no augmentation of texts.
        mode: `random`: each time an example is drawn, one of its versions, all alike likely.
            `together`: all of them, averaged into one gradient, which costs as many times the
            work. With privacy both cost the same epsilon as no augmentation.
        image_pairs: For images of an `image_folder`: path of a CSV file whose columns `original`
            and `counterfactual` hold paths relative to it, as `evaluation.counterfactual.
            image_pairs`. A training image has one version more for each row that names it, made
            from it alone; none for no augmentation of images.
        rate: With `random`, the probability that an example comes as a changed version, all of
            those alike likely; in (0, 1]. None for all versions alike likely, the original too:
            of two, each half of the time.
    """

    word_lists: dict[str, Any] = field(default_factory=dict)
    mode: Literal["random", "together"] = "random"
    image_pairs: Optional[str] = None
    rate: Optional[float] = None

    @property
    def asked_for(self) -> bool:
        """Whether examples have versions."""
        return bool(self.word_lists or self.image_pairs)

    def __post_init__(self) -> None:
        key = "fairness.swaps"
        require_word_lists(f"{key}.word_lists", self.word_lists)
        require(
            self.rate is None or 0 < self.rate <= 1,
            f"{key}.rate",
            self.rate,
            "a probability in (0, 1], or null for all versions alike likely",
        )
        require(
            self.rate is None or (self.asked_for and self.mode == "random"),
            f"{key}.rate",
            self.rate,
            f"null without {key}.word_lists or {key}.image_pairs, and with {key}.mode: together, "
            "where no version is drawn",
        )


@dataclass(frozen=True)
class FairnessSettings:
    """How training is changed so that groups fare alike; `docs/mitigation.md` compares the ways.

    Attributes:
        attribute: Group attribute that everything here speaks of; required by whatever looks at
            groups.
        reweighing: Weigh every example by P(group) P(label) / P(group, label), after which group
            and label are independent (Kamiran & Calders 2012).
        balanced_sampling: Draw batches in which every `group`, or every `group_and_label`, is
            equally likely. With privacy it goes with `privacy.sampling.method: poisson`, whose
            rates then differ by group, and epsilon is accounted at the largest.
        public_counts: Group -> label -> number of people, from a public source, in place of
            counting the training examples. Shares count, not sizes. A private run needs these for
            `balanced_sampling`, and these or `releases` for `reweighing`.
        penalty: Unfairness added to the loss. It compares examples of a batch, which have no
            gradient of their own then: not with privacy.
        swaps: Versions of training texts or images, changed in what should not matter.
        constraint: A bound on what groups get, held by Lagrange multipliers.
        group_dro: The groups that lose most count most.
        adversary: A second model that guesses the group from the score; not with privacy.
        releases: The noisy tables from which a private run learns how groups fare.
        focal_gamma: Focal loss: examples that are right already count (1 - p)^gamma; 0 for none.
        label_smoothing: Share of a label's mass spread over all labels, in [0, 1).
    """

    attribute: Optional[str] = None
    reweighing: bool = False
    balanced_sampling: Optional[Literal["group", "group_and_label"]] = None
    public_counts: Optional[dict[str, dict[str, float]]] = None
    penalty: PenaltySettings = field(default_factory=PenaltySettings)
    swaps: SwapSettings = field(default_factory=SwapSettings)
    constraint: ConstraintSettings = field(default_factory=ConstraintSettings)
    group_dro: GroupDroSettings = field(default_factory=GroupDroSettings)
    adversary: AdversarySettings = field(default_factory=AdversarySettings)
    releases: ReleaseSettings = field(default_factory=ReleaseSettings)
    focal_gamma: float = 0.0
    label_smoothing: float = 0.0

    @property
    def players(self) -> tuple[str, ...]:
        """What trains against the model, by the name of its section."""
        asked = {
            "fairness.constraint": self.constraint.measure is not None,
            "fairness.group_dro": self.group_dro.step_size is not None,
            "fairness.adversary": self.adversary.parity is not None,
        }
        return tuple(name for name, wanted in asked.items() if wanted)

    @property
    def reweighs_by_releases(self) -> bool:
        """Whether the weights of examples come from a noisy table."""
        return self.reweighing and self.public_counts is None and self.releases_tables

    @property
    def releases_tables(self) -> bool:
        """Whether noisy tables of training examples are released."""
        return self.releases.noise_multiplier is not None

    def __post_init__(self) -> None:
        asking = [
            *(["fairness.reweighing"] if self.reweighing else []),
            *(["fairness.balanced_sampling"] if self.balanced_sampling else []),
            *(["fairness.penalty"] if self.penalty.measure else []),
            *self.players,
        ]
        require(
            self.attribute is not None or not asking,
            "fairness.attribute",
            self.attribute,
            f"the group attribute that {' and '.join(asking)} is about",
        )
        require(
            len(self.players) <= 1,
            "fairness",
            list(self.players),
            "only one of constraint, group_dro and adversary: each would undo what another does",
        )
        require(
            self.penalty.measure is None or self.adversary.parity is None,
            "fairness.penalty.measure",
            self.penalty.measure,
            "null beside fairness.adversary, whose gradient is projected off the task's alone",
        )
        require(
            self.public_counts is None or self.reweighing or bool(self.balanced_sampling),
            "fairness.public_counts",
            self.public_counts,
            "null without fairness.reweighing or fairness.balanced_sampling, which alone count",
        )
        require(
            not (self.reweighing and self.balanced_sampling),
            "fairness.balanced_sampling",
            self.balanced_sampling,
            "null with fairness.reweighing: each makes up for the same counts, and both together "
            "would do it twice",
        )
        require(
            0 <= self.focal_gamma < inf, "fairness.focal_gamma", self.focal_gamma, "a number >= 0"
        )
        require(
            0 <= self.label_smoothing < 1,
            "fairness.label_smoothing",
            self.label_smoothing,
            "a number in [0, 1)",
        )

    def require_plain(self) -> None:
        """Refuses what only a private run pays for.

        Raises:
            SettingError: Naming what to use instead.
        """
        require(
            not self.releases_tables,
            "fairness.releases.noise_multiplier",
            self.releases.noise_multiplier,
            "null, because privacy.enabled is false and tables of groups need no noise",
        )

    def require_private(self) -> None:
        """Refuses what has no per-example gradient, or looks at the training people unpaid.

        Raises:
            SettingError: Naming what to use instead.
        """
        require(
            self.penalty.measure is None,
            "fairness.penalty.measure",
            self.penalty.measure,
            "null with privacy: it compares the examples of a batch, so that no example has a "
            "gradient of its own to clip. Use fairness.constraint with fairness.releases, "
            "fairness.reweighing with fairness.public_counts, or thresholds fitted after training",
        )
        require(
            self.adversary.parity is None,
            "fairness.adversary.parity",
            self.adversary.parity,
            "null with privacy: the adversary learns from the groups of training people, and "
            "epsilon does not cover its weights. Use fairness.constraint with fairness.releases",
        )
        require(
            not self.reweighing or self.public_counts is not None or self.releases_tables,
            "fairness.reweighing",
            self.reweighing,
            "fairness.public_counts or fairness.releases.noise_multiplier beside it with privacy: "
            "counts of the training people are not public, and epsilon would not cover them",
        )
        games = [name for name in self.players if name != "fairness.adversary"]
        require(
            not games or self.releases_tables,
            "fairness.releases.noise_multiplier",
            self.releases.noise_multiplier,
            f"a number > 0 with privacy and {' '.join(games)}: how groups fare is told by training "
            "people, and only noisy tables of them are covered by epsilon",
        )
        require(
            not self.releases_tables or bool(games) != self.reweighs_by_releases,
            "fairness.releases.noise_multiplier",
            self.releases.noise_multiplier,
            "null without fairness.constraint, fairness.group_dro or fairness.reweighing, and "
            "fairness.public_counts where two of them are set: tables serve one of them",
        )
        require(
            self.balanced_sampling is None or self.public_counts is not None,
            "fairness.balanced_sampling",
            self.balanced_sampling,
            "fairness.public_counts beside it with privacy: the rates at which groups are drawn "
            "must be public, and counts of the training people are not. Take them from a census, "
            "or from other people",
        )
