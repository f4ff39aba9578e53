"""The rates and the gaps by name: what each counts, and which kind of parity it asks for.

To add a rate or a gap of rates, add a line here (and its definition to docs/fairness.md):
tables, intervals, permutation tests, report and curves follow from it.

Sources: fairlearn's definitions wherever it has one; Barocas, Hardt & Narayanan, "Fairness and
Machine Learning", chapter 3, for the three kinds of parity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

CONFIDENCE = 0.95
INTERSECTION = " × "
FOUR_FIFTHS = 0.8
"""29 CFR 1607.4 D: a selection rate below four fifths of the highest shows adverse impact."""

Parity = Literal["independence", "separation", "sufficiency"]
"""Of the group A from answer and label; from the answer given the label; from the label given
the answer. It is what a permutation test assumes."""


@dataclass(frozen=True)
class Gap:
    """How far the groups' rates lie apart.

    Attributes:
        rates: Rates compared; of several, the worst counts.
        kind: Largest minus smallest, or smallest over largest.
        parity: What holds of the groups where there is no gap.
        meaning: In a few words, for people.
    """

    rates: tuple[str, ...]
    kind: Literal["difference", "ratio"]
    parity: Parity
    meaning: str


RATES: dict[str, str] = {
    "selection_rate": "no examples",
    "true_positive_rate": "no positives",
    "false_positive_rate": "no negatives",
    "precision": "nobody selected",
    "false_discovery_rate": "nobody selected",
    "false_omission_rate": "everybody selected",
}
"""Rate of a group and a label -> why it is undefined where nobody is counted."""

ACCURACY = "accuracy"
NOBODY = {**RATES, ACCURACY: "no examples"}

_ODDS = ("true_positive_rate", "false_positive_rate")

GAPS: dict[str, Gap] = {
    "demographic_parity_difference": Gap(
        ("selection_rate",),
        "difference",
        "independence",
        "Largest minus smallest share of a group given the label; 0 is parity.",
    ),
    "demographic_parity_ratio": Gap(
        ("selection_rate",),
        "ratio",
        "independence",
        "Disparate impact: smallest over largest share of a group given the label; 1 is parity, "
        "below 0.8 fails the four-fifths rule.",
    ),
    "equalized_odds_difference": Gap(
        _ODDS,
        "difference",
        "separation",
        "The larger of the gaps in true and false positive rate; 0 is parity.",
    ),
    "equalized_odds_ratio": Gap(
        _ODDS,
        "ratio",
        "separation",
        "The smaller of the ratios of true and false positive rates; 1 is parity.",
    ),
    "equal_opportunity_difference": Gap(
        ("true_positive_rate",),
        "difference",
        "separation",
        "Gap in the true positive rate; 0 is parity.",
    ),
    "equal_opportunity_ratio": Gap(
        ("true_positive_rate",),
        "ratio",
        "separation",
        "Ratio of the true positive rates; 1 is parity.",
    ),
    "predictive_parity_difference": Gap(
        ("precision",),
        "difference",
        "sufficiency",
        "Gap in precision: how often a given label is true; 0 is parity.",
    ),
    "predictive_parity_ratio": Gap(
        ("precision",), "ratio", "sufficiency", "Ratio of the precisions; 1 is parity."
    ),
    "false_discovery_rate_difference": Gap(
        ("false_discovery_rate",),
        "difference",
        "sufficiency",
        "Gap in how often a given label is false; 0 is parity.",
    ),
    "false_omission_rate_difference": Gap(
        ("false_omission_rate",),
        "difference",
        "sufficiency",
        "Gap in how often a withheld label is true; 0 is parity.",
    ),
    "accuracy_difference": Gap(
        (ACCURACY,), "difference", "independence", "Gap in accuracy; 0 is parity."
    ),
    "accuracy_ratio": Gap(
        (ACCURACY,), "ratio", "independence", "Ratio of the accuracies; 1 is parity."
    ),
}
