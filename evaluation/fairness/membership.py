"""Who belongs to which group: of one attribute, or of several crossed with one another."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from configs.schema.errors import SettingError, require
from configs.schema.evaluation import EvaluationSettings
from evaluation.fairness.definitions import INTERSECTION
from evaluation.predictions import Predictions

_MOST_INTERSECTIONS = 1_000


@dataclass(frozen=True)
class Membership:
    """The groups of one attribute, or of an intersection.

    Attributes:
        of: The attributes crossed.
        names: Names of the groups.
        groups: int (rows,), the group of each row; or float (rows, groups), the probability of
            each group where membership is inferred.
    """

    of: tuple[str, ...]
    names: tuple[str, ...]
    groups: np.ndarray

    @property
    def name(self) -> str:
        """`sex`, or `sex × race`."""
        return INTERSECTION.join(self.of)

    @property
    def soft(self) -> bool:
        """Whether membership is a probability."""
        return self.groups.ndim == 2

    def shares(self) -> np.ndarray:
        """Returns the share of each row in each group, float64 (rows, groups)."""
        return self.groups if self.soft else np.eye(len(self.names))[self.groups]


def memberships(predictions: Predictions, settings: EvaluationSettings) -> list[Membership]:
    """Returns every chosen attribute and every intersection up to the depth asked for.

    Intersections list the combinations that occur. Where one of the attributes is inferred, the
    probability of a combination is the product of its parts': attributes are taken as independent
    given what membership was inferred from.

    Raises:
        SettingError: For an attribute that the data do not have.
    """
    return [_cross(predictions, crossed) for crossed in crossings(predictions.attributes, settings)]


def crossings(known: tuple[str, ...], settings: EvaluationSettings) -> list[tuple[str, ...]]:
    """Returns the attributes and their intersections, shallow ones first.

    Raises:
        SettingError: For an attribute that is not known.
    """
    chosen = known if settings.attributes is None else settings.attributes
    for attribute in chosen:
        require(
            attribute in known,
            "evaluation.attributes",
            attribute,
            f"one of {', '.join(known)}" if known else "nothing: the data have no group attributes",
        )
    found = [
        crossed
        for depth in range(1, settings.intersections + 1)
        for crossed in combinations(chosen, depth)
    ]
    if len(found) > _MOST_INTERSECTIONS:
        raise SettingError(
            "evaluation.intersections",
            settings.intersections,
            f"fewer attributes crossed at once: {len(chosen)} make {len(found)} intersections",
        )
    return found


def _cross(predictions: Predictions, crossed: tuple[str, ...]) -> Membership:
    names = [predictions.group_names[attribute] for attribute in crossed]
    if any(attribute not in predictions.groups for attribute in crossed):
        return _cross_shares(predictions, crossed, names)
    if len(crossed) == 1:
        return Membership(crossed, tuple(names[0]), predictions.groups[crossed[0]])
    sizes = [len(values) for values in names]
    combined = np.ravel_multi_index([predictions.groups[attribute] for attribute in crossed], sizes)
    occurring, groups = np.unique(combined, return_inverse=True)
    return Membership(crossed, _combined_names(occurring, names), groups.reshape(-1))


def _cross_shares(
    predictions: Predictions, crossed: tuple[str, ...], names: list[tuple[str, ...]]
) -> Membership:
    product = np.ones((len(predictions.labels), 1))
    for attribute, values in zip(crossed, names, strict=True):
        if attribute in predictions.groups:
            shares = np.eye(len(values))[predictions.groups[attribute]]
        else:
            shares = predictions.soft_groups[attribute]
        product = (product[:, :, None] * shares[:, None, :]).reshape(len(product), -1)
    if len(crossed) == 1:
        return Membership(crossed, tuple(names[0]), product)
    occurring = np.flatnonzero(product.sum(axis=0) > 0)
    return Membership(crossed, _combined_names(occurring, names), product[:, occurring])


def _combined_names(occurring: np.ndarray, names: list[tuple[str, ...]]) -> tuple[str, ...]:
    values = np.unravel_index(occurring, [len(one) for one in names])
    return tuple(
        INTERSECTION.join(one[value] for one, value in zip(names, combination, strict=True))
        for combination in zip(*values, strict=True)
    )
