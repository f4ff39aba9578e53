"""From a recipe's `constraint`, `group_dro` and `releases` to a game, checked with the data."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from configs.schema import FairnessSettings, require
from data import Dataset
from training.fairness.constraints import BoundedGroupLoss, RateConstraint
from training.fairness.group_dro import GroupDro
from training.fairness.player import Game, Rule
from training.fairness.reweighing import ReleasedWeights
from training.privacy.group_releases import ENOUGH, WIDTHS
from training.privacy.plan import PrivacyPlan

Strata = Mapping[str, tuple[bool, ...]]


def plain_game(settings: FairnessSettings, dataset: Dataset, positive: int) -> Game:
    """The game of a run without privacy, which counts its training examples.

    Raises:
        SettingError: If a group has nobody of whom its rate or loss could be told.
    """
    attribute, shape = _attribute_of(settings, dataset)
    rule = _rule(settings, dataset, positive, unit=1.0, least_share=0.0)
    if isinstance(rule, RateConstraint):
        require_members(dataset, attribute, rule.strata, "fairness.constraint.measure")
    if isinstance(rule, GroupDro) and rule.by_label:
        require_every_label(dataset, attribute, "fairness.group_dro.by_label")
    counts = counts_of(dataset, attribute)
    return Game(rule, attribute, shape, positive, counts, memory=_memory(settings))


def private_game(
    settings: FairnessSettings, dataset: Dataset, positive: int, plan: PrivacyPlan
) -> Game:
    """The game of a private run, which knows of its groups what the plan's tables tell.

    Raises:
        SettingError: If losses are clipped below the bound that they should keep, or training
            ends before the first table.
    """
    attribute, shape = _attribute_of(settings, dataset)
    tables = plan.group_releases
    if tables is None:
        raise ValueError("A private game needs a plan with tables of groups.")
    require(
        plan.tables(plan.steps) > 0,
        "training.steps",
        plan.steps,
        f"more than {tables.first}: before it the first table of groups is released "
        "(fairness.releases.every)",
    )
    unit, bound = settings.releases.loss_clip, settings.constraint.loss_bound
    require(
        bound is None or bound < unit,
        "fairness.releases.loss_clip",
        unit,
        f"more than fairness.constraint.loss_bound, {bound}: clipped losses could not break it",
    )
    # So many numbers, each with its own noise, add up to the people of a group.
    numbers = WIDTHS[tables.statistic] * (1 if settings.reweighs_by_releases else shape[1])
    deviation = tables.noise_stddev(str(plan.neighbours)) * math.sqrt(numbers)
    least_share = ENOUGH * deviation / plan.num_examples
    rule = _rule(settings, dataset, positive, unit=unit, least_share=least_share)
    return Game(rule, attribute, shape, positive, counts=None, loss_unit=unit)


def _attribute_of(settings: FairnessSettings, dataset: Dataset) -> tuple[str, tuple[int, int]]:
    attribute, info = str(settings.attribute), dataset.info
    return attribute, (len(info.groups[attribute]), len(info.label_names))


def _memory(settings: FairnessSettings) -> float:
    return 0.0 if settings.constraint.measure is None else settings.constraint.memory


def _rule(
    settings: FairnessSettings, dataset: Dataset, positive: int, unit: float, least_share: float
) -> Rule:
    groups = dataset.info.groups[str(settings.attribute)]
    labels = dataset.info.label_names
    constraint, dro = settings.constraint, settings.group_dro
    if dro.step_size is not None:
        return GroupDro(
            group_names=groups,
            label_names=labels,
            by_label=dro.by_label,
            people=len(dataset.train),
            step_size=dro.step_size,
            adjustment=dro.adjustment,
            loss_unit=unit,
            least_share=least_share,
        )
    if constraint.measure == "bounded_group_loss":
        return BoundedGroupLoss(
            group_names=groups,
            loss_bound=float(constraint.loss_bound or 0.0),
            loss_unit=unit,
            step_size=constraint.step_size,
            multiplier_bound=constraint.multiplier_bound,
            least_share=least_share,
        )
    if constraint.measure is not None:
        return RateConstraint(
            group_names=groups,
            strata=_strata(constraint.measure, labels, positive),
            slack=constraint.slack,
            step_size=constraint.step_size,
            multiplier_bound=constraint.multiplier_bound,
            least_share=least_share,
        )
    return ReleasedWeights(groups, labels, least_share)


def _strata(measure: str, labels: tuple[str, ...], positive: int) -> dict[str, tuple[bool, ...]]:
    is_positive = tuple(i == positive for i in range(len(labels)))
    of_label = {f"the label {labels[positive]}": is_positive}
    others = {"other labels": tuple(not kept for kept in is_positive)}
    return {
        "demographic_parity": {"all": tuple(True for _ in labels)},
        "true_positive_rate_parity": of_label,
        "equalized_odds": {**of_label, **others},
    }[measure]


def counts_of(dataset: Dataset, attribute: str) -> np.ndarray:
    """Training examples by group and label, float64 (groups, labels). Not private."""
    info = dataset.info
    counts = np.zeros((len(info.groups[attribute]), len(info.label_names)))
    np.add.at(counts, (dataset.train.groups[attribute], dataset.train.labels), 1.0)
    return counts


def require_members(dataset: Dataset, attribute: str, strata: Strata, key: str) -> None:
    """Refuses a group that has people but none in a stratum. Looks at training examples.

    Raises:
        SettingError: Naming group and stratum.
    """
    counts = counts_of(dataset, attribute)
    for index, group in enumerate(dataset.info.groups[attribute]):
        for stratum, kept in strata.items():
            require(
                counts[index].sum() == 0 or counts[index][list(kept)].sum() > 0,
                key,
                stratum,
                f"an attribute whose every group has training people there; {group!r} of "
                f"{attribute!r} has none (merge groups, or compare among all)",
            )


def require_every_label(dataset: Dataset, attribute: str, key: str) -> None:
    """Refuses a group that has people but none of some label. Looks at training examples.

    Raises:
        SettingError: Naming group and label.
    """
    labels = dataset.info.label_names
    of_each = {name: tuple(name == other for other in labels) for name in labels}
    require_members(dataset, attribute, of_each, key)
