"""From the recipe's `fairness` section to what a step needs, checked against the data."""

from __future__ import annotations

from dataclasses import dataclass

from configs.schema import FairnessSettings, require
from data import Dataset
from training.fairness.adversary import AdversaryTask
from training.fairness.games import (
    plain_game,
    private_game,
    require_every_label,
    require_members,
)
from training.fairness.penalties import Penalty
from training.fairness.player import Game
from training.fairness.reweighing import GroupWeights
from training.privacy.plan import PrivacyPlan


@dataclass(frozen=True)
class Mitigation:
    """How what is minimised is changed so that groups fare alike.

    Attributes:
        weights: Weights of examples; none for equal ones.
        penalty: Unfairness added to the loss; none for no penalty.
        game: A second player with multipliers; none for none.
        adversary: A second model that guesses groups; none for none.
    """

    weights: GroupWeights | None = None
    penalty: Penalty | None = None
    game: Game | None = None
    adversary: AdversaryTask | None = None

    @classmethod
    def of(
        cls,
        settings: FairnessSettings,
        dataset: Dataset,
        positive_label: str | None,
        plan: PrivacyPlan | None = None,
    ) -> Mitigation:
        """What the recipe asks for.

        Args:
            settings: The section.
            dataset: Training examples, and the names of groups and labels.
            positive_label: The favourable label; none takes the last of a two-label task.
            plan: The privacy plan, with the noisy tables that the section needs; none without
                privacy.

        Raises:
            SettingError: If the data have no such attribute, a label has no favourable side,
                public counts lack a group or label, or, without privacy (it would tell), a group
                lacks people of a label that is needed.
        """
        if settings.attribute is None:
            return cls()
        info = dataset.info
        require(
            settings.attribute in info.groups,
            "fairness.attribute",
            settings.attribute,
            f"one of the data's group attributes {list(info.groups)}",
        )
        weights = penalty = game = adversary = None
        if settings.reweighing and settings.public_counts is not None:
            weights = GroupWeights.from_public(
                settings.attribute,
                settings.public_counts,
                info.groups[settings.attribute],
                info.label_names,
            )
        elif settings.reweighing and plan is None:
            require_every_label(dataset, settings.attribute, "fairness.reweighing")
            weights = GroupWeights.from_examples(
                settings.attribute,
                dataset.train.groups[settings.attribute],
                dataset.train.labels,
                (len(info.groups[settings.attribute]), len(info.label_names)),
            )
        favourable = _Favourable(info.label_names, positive_label)
        if settings.penalty.measure is not None:
            penalty = Penalty(
                measure=settings.penalty.measure,
                parity=settings.penalty.parity,
                weight=settings.penalty.weight,
                attribute=settings.attribute,
                groups=len(info.groups[settings.attribute]),
                positive=favourable.index("fairness.penalty"),
            )
            require_members(
                dataset, settings.attribute, penalty.strata(info), "fairness.penalty.parity"
            )
        if settings.adversary.parity is not None:
            adversary = AdversaryTask(
                parity=settings.adversary.parity,
                weight=settings.adversary.weight,
                learning_rate=settings.adversary.learning_rate,
                attribute=settings.attribute,
                groups=len(info.groups[settings.attribute]),
                positive=favourable.index("fairness.adversary"),
            )
            require_members(
                dataset, settings.attribute, adversary.strata(info), "fairness.adversary.parity"
            )
        elif settings.players or settings.reweighs_by_releases:
            looks_at_answers = settings.constraint.measure not in (None, "bounded_group_loss")
            positive = favourable.index("fairness.constraint") if looks_at_answers else 0
            game = (
                plain_game(settings, dataset, positive)
                if plan is None
                else private_game(settings, dataset, positive, plan)
            )
        return cls(weights, penalty, game, adversary)


@dataclass(frozen=True)
class _Favourable:
    """The label that groups are to get alike."""

    labels: tuple[str, ...]
    named: str | None

    def index(self, asking: str) -> int:
        require(
            self.named is not None or len(self.labels) == 2,
            "evaluation.positive_label",
            self.named,
            f"the favourable one of the labels {list(self.labels)}, for {asking}",
        )
        favourable = self.labels[-1] if self.named is None else self.named
        require(
            favourable in self.labels,
            "evaluation.positive_label",
            favourable,
            f"one of the labels {list(self.labels)}",
        )
        return self.labels.index(favourable)
