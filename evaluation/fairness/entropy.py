r"""Inequality between individuals, and how much of it lies between groups.

Each example's benefit is b = answer - truth + 1: 1 where the answer is right, 2 where the label is
given undeservedly, 0 where it is withheld undeservedly. With mean benefit \mu,

.. math::
    GE_2 = \frac{1}{2n} \sum_i ((b_i/\mu)^2 - 1), \qquad
    T = GE_1 = \frac{1}{n} \sum_i \frac{b_i}{\mu} \ln \frac{b_i}{\mu}

Both are 0 where everybody benefits alike, and split exactly into inequality within groups and
between groups' means.

Source: Speicher, Heidari, Grgic-Hlaca, Gummadi, Singla, Weller, Zafar 2018, "A Unified Approach to
Quantifying Algorithmic Unfairness: Measuring Individual & Group Unfairness via Inequality Indices".
"""

from __future__ import annotations

import numpy as np

from evaluation.fairness.rates import GroupCounts, divide

INDICES = ("generalized_entropy", "theil")
_BENEFITS = np.array([0.0, 1.0, 2.0])


def inequality(counts: GroupCounts) -> dict[str, dict[str, np.ndarray]]:
    """Returns `INDICES` -> `all`, `between`, `within` -> float64 (..., labels).

    `generalized_entropy` has alpha = 2, `theil` is alpha = 1. NaN where nobody benefits.
    """
    withheld = counts.positives - counts.hits
    undeserved = counts.selected - counts.hits
    alike = counts.examples[..., None] - withheld - undeserved
    people = np.stack([withheld, alike, undeserved], axis=-1)  # (..., groups, labels, 3)
    size = people.sum(axis=-1)
    everyone = people.sum(axis=-3)  # (..., labels, 3)
    mean = divide(everyone @ _BENEFITS, everyone.sum(axis=-1))
    group_mean = divide(people @ _BENEFITS, size)
    found = {}
    for name, term in (("generalized_entropy", _squares), ("theil", _logarithms)):
        total = _average(term(divide(_BENEFITS, mean[..., None])), everyone)
        relative = divide(group_mean, np.broadcast_to(mean[..., None, :], group_mean.shape))
        terms = np.where(size > 0, term(relative), 0.0)
        between = _average(np.moveaxis(terms, -2, -1), np.moveaxis(size, -2, -1))
        found[name] = {"all": total, "between": between, "within": total - between}
    return found


def _squares(ratio: np.ndarray) -> np.ndarray:
    return (ratio**2 - 1) / 2


def _logarithms(ratio: np.ndarray) -> np.ndarray:
    return ratio * np.log(np.where(ratio > 0, ratio, 1.0))


def _average(terms: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return divide((terms * weights).sum(axis=-1), weights.sum(axis=-1))
