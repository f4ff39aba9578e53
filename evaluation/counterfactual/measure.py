r"""How often and how far answers move under a perturbation.

Each pair is an example and a variant of it. Over pairs:

- the *flip rate* is the share whose answer changes;
- the *score shift* is the total variation distance between the two rows of probabilities,
  \sum_k |p_k - p'_k| / 2: for two labels the change of the probability of either;
- with one positive label, the *signed shift* p' - p says in whose favour.

Intervals treat the example, not the pair, as what was sampled: one example may have many variants.

Sources: Kusner, Loftus, Russell, Silva 2017, "Counterfactual Fairness"; Garg et al. 2019 (CTF
gap: the mean absolute shift); Prabhakaran, Hutchinson, Mitchell 2019, "Perturbation Sensitivity
Analysis to Detect Unintended Model Biases" (score deviation, label distance).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from evaluation.fairness.uncertainty import interval, wilson

_LARGEST_LISTED = 5


@dataclass(frozen=True)
class Perturbation:
    """Pairs of an original and a variant, and what the model said of both.

    Attributes:
        kind: `word list`, `template` or `image pairs`.
        examined: Examples looked at.
        examples: int (pairs,), the example each pair is of.
        directions: int (pairs,), index into `direction_names`.
        direction_names: What was changed into what.
        before: Log probabilities of the originals, (pairs, classes).
        after: Log probabilities of the variants, (pairs, classes).
    """

    kind: str
    examined: int
    examples: np.ndarray
    directions: np.ndarray
    direction_names: tuple[str, ...]
    before: np.ndarray
    after: np.ndarray


def measure_perturbation(
    found: Perturbation, positive: int | None, resamples: int, seed: int
) -> dict[str, Any]:
    """Returns the entry of one perturbation, as docs/fairness.md lists it.

    Args:
        found: The pairs.
        positive: Index of the positive label; None measures no signed shift.
        resamples: Bootstrap resamples of examples; 0 gives no intervals of shifts.
        seed: Of the bootstrap.
    """
    described = {"kind": found.kind, "examined": found.examined}
    everything = _measure(found, np.ones(len(found.examples), bool), positive, resamples, seed)
    directions = {
        name: _measure(found, found.directions == index, positive, resamples, seed)
        for index, name in enumerate(found.direction_names)
    }
    return {**described, **everything, "directions": directions, "largest": _largest(found)}


def _measure(
    found: Perturbation, chosen: np.ndarray, positive: int | None, resamples: int, seed: int
) -> dict[str, Any]:
    examples, example = np.unique(found.examples[chosen], return_inverse=True)
    measured: dict[str, Any] = {"pairs": int(chosen.sum()), "changed": len(examples)}
    if not len(examples):
        reason = "no example holds anything that this perturbation changes"
        return {**measured, "flip_rate": None, "score_shift": None, "reason": reason}
    before, after = found.before[chosen], found.after[chosen]
    flips = before.argmax(axis=1) != after.argmax(axis=1)
    shifts = _shifts(before, after)
    # As if every pair of an example moved together: too wide rather than too narrow.
    low, high = wilson(np.array(flips.mean() * len(examples)), np.array(len(examples)))
    measured |= {
        "flip_rate": float(flips.mean()),
        "flip_rate_interval": [float(low), float(high)],
        "score_shift": _mean(shifts, example, resamples, seed),
        "score_shift_95th_percentile": float(np.quantile(shifts, 0.95)),
        "score_shift_largest": float(shifts.max()),
        "reason": None,
    }
    if positive is not None:
        signed = np.exp(after[:, positive]) - np.exp(before[:, positive])
        measured["signed_shift"] = _mean(signed, example, resamples, seed)
        measured["flips_to_positive"] = int((flips & (after.argmax(axis=1) == positive)).sum())
        measured["flips_from_positive"] = int((flips & (before.argmax(axis=1) == positive)).sum())
    return measured


def _shifts(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    return np.abs(np.exp(after) - np.exp(before)).sum(axis=1) / 2


def _mean(
    values: np.ndarray, example: np.ndarray, resamples: int, seed: int
) -> dict[str, float | None]:
    """Mean over pairs; its interval resamples examples with all of their pairs."""
    sums, pairs = np.bincount(example, values), np.bincount(example)
    drawn = np.random.default_rng(seed).integers(0, len(sums), (resamples, len(sums)))
    low, high = interval(float(values.mean()), sums[drawn].sum(axis=1) / pairs[drawn].sum(axis=1))
    return {"mean": float(values.mean()), "low": low, "high": high}


def _largest(found: Perturbation) -> list[dict[str, Any]]:
    """The pairs that moved most, by position in the split: texts stay where they are."""
    shifts = _shifts(found.before, found.after)
    return [
        {
            "example": int(found.examples[pair]),
            "direction": found.direction_names[found.directions[pair]],
            "shift": float(shifts[pair]),
        }
        for pair in np.argsort(-shifts, kind="stable")[:_LARGEST_LISTED]
    ]
