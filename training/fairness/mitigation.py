"""From the recipe's `fairness` section to what a step needs, checked against the data."""

from __future__ import annotations

from dataclasses import dataclass

from configs.schema import FairnessSettings, require
from data import Dataset, Swaps
from training.fairness.balancing import Balance
from training.fairness.penalties import Penalty
from training.fairness.reweighing import GroupWeights


@dataclass(frozen=True)
class Mitigation:
    """How training is changed so that groups fare alike.

    Attributes:
        weights: Weights of examples; none for equal ones.
        penalty: Unfairness added to the loss; none for no penalty.
        balance: Groups that batches are to hold alike; none to draw everybody alike.
        swaps: Versions of training texts; none for the originals alone.
        together: Whether all versions of an example are in a batch, rather than one at random.
    """

    weights: GroupWeights | None = None
    penalty: Penalty | None = None
    balance: Balance | None = None
    swaps: Swaps | None = None
    together: bool = False

    @property
    def rows_per_record(self) -> int:
        """Rows that one example takes in a batch."""
        return 1 if self.swaps is None or not self.together else self.swaps.count

    @property
    def shares(self) -> tuple[float, ...] | None:
        """What a privacy plan must know of `balance`."""
        return None if self.balance is None else self.balance.shares

    @classmethod
    def of(
        cls, settings: FairnessSettings, dataset: Dataset, positive_label: str | None
    ) -> Mitigation:
        """What the recipe asks for.

        Args:
            settings: The section.
            dataset: Training examples, and the names of groups and labels.
            positive_label: The favourable label; none takes the last of a two-label task.

        Raises:
            SettingError: If the data have no such attribute, a label has no favourable side, or
                public counts lack a group or label.
        """
        swaps = None
        if settings.swaps.word_lists:
            swaps = Swaps.read("fairness.swaps.word_lists", settings.swaps.word_lists)
        together = settings.swaps.mode == "together"
        if settings.attribute is None:
            return cls(swaps=swaps, together=together)
        info = dataset.info
        require(
            settings.attribute in info.groups,
            "fairness.attribute",
            settings.attribute,
            f"one of the data's group attributes {list(info.groups)}",
        )
        groups, labels = info.groups[settings.attribute], info.label_names
        weights = penalty = balance = None
        if settings.balanced_sampling is not None:
            balance = Balance.of(
                settings.balanced_sampling,
                settings.attribute,
                settings.public_counts,
                groups,
                labels,
            )
        if settings.reweighing and settings.public_counts is not None:
            weights = GroupWeights.from_public(
                settings.attribute, settings.public_counts, groups, labels
            )
        elif settings.reweighing:
            weights = GroupWeights.from_examples(
                settings.attribute,
                dataset.train.groups[settings.attribute],
                dataset.train.labels,
                (len(groups), len(labels)),
            )
        if settings.penalty.measure is not None:
            require(
                positive_label is not None or len(labels) == 2,
                "evaluation.positive_label",
                positive_label,
                f"the favourable one of the labels {list(labels)}, for fairness.penalty",
            )
            favourable = labels[-1] if positive_label is None else positive_label
            require(
                favourable in labels,
                "evaluation.positive_label",
                favourable,
                f"one of the labels {list(labels)}",
            )
            penalty = Penalty(
                measure=settings.penalty.measure,
                parity=settings.penalty.parity,
                weight=settings.penalty.weight,
                attribute=settings.attribute,
                groups=len(groups),
                positive=list(labels).index(favourable),
            )
        return cls(weights, penalty, balance, swaps, together)
