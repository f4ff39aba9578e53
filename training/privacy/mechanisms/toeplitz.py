"""Banded Toeplitz strategy matrices: their best coefficients, error and sensitivity.

A matrix mechanism factors the matrix A of ones on and below the diagonal, whose products with the
gradients are the prefix sums, as A = B C; it releases C x + z and so adds the noise A C^-1 z = B z
to the prefix sums. Here C is lower triangular and constant along its diagonals, c_0 = 1, c_1, ...
c_(b-1), zero from the b-th on ("b bands").

Sources: Choquette-Choo et al. 2023 (arXiv:2306.08153); McKenna 2024 (arXiv:2405.15913) for Toeplitz
strategies and their optimisation; Fichtenberger et al. 2023 (arXiv:2202.11205) for the square root.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from scipy.optimize import minimize
from scipy.signal import lfilter

# Coefficients are multiples of this: exact in float32, and the same on machines whose arithmetic
# differs in the last bits, so that a run can move.
_GRID = 2.0**-20


def square_root_coefficients(bands: int) -> np.ndarray:
    """First coefficients of the Toeplitz square root of A, float64 (bands,): binom(2k, k) / 4^k."""
    k = np.arange(1, bands)
    return np.concatenate([[1.0], np.cumprod((2 * k - 1) / (2 * k))])


def noise_in_prefix_sums(coefficients: Sequence[float], steps: int) -> np.ndarray:
    """Squared noise in each prefix sum at noise multiplier 1, float64 (steps,).

    Row norms of B = A C^-1, squared, times the squared norm of C's columns.
    """
    c = np.asarray(coefficients, np.float64)
    row = lfilter([1.0], c, np.ones(steps))
    return np.cumsum(row**2) * (c @ c)


@lru_cache(maxsize=32)
def best_coefficients(bands: int, steps: int) -> tuple[float, ...]:
    """The banded coefficients of least mean squared noise in the prefix sums of `steps` steps.

    They are kept >= 0, which the sensitivity rests on.

    Returns:
        c_0 = 1, c_1, ... c_(bands - 1).
    """
    weights = np.arange(steps, 0, -1) / steps

    def log_error(tail: np.ndarray) -> tuple[float, np.ndarray]:
        c = np.concatenate([[1.0], tail])
        row = lfilter([1.0], c, np.ones(steps))  # of A C^-1: 1 / ((1 - x) c(x))
        slope = lfilter([1.0], c, row)  # minus its derivative by c_j, j steps later
        error, norm = weights @ row**2, c @ c
        gradient = [-2 * (weights[j:] * row[j:]) @ slope[: steps - j] for j in range(1, bands)]
        return (
            np.log(error) + np.log(norm),
            np.asarray(gradient) / error + 2 * tail / norm,
        )

    start = square_root_coefficients(bands)[1:]
    found = minimize(
        log_error,
        start,
        jac=True,
        method="L-BFGS-B",
        bounds=[(0.0, 1.0)] * (bands - 1),
        options={"maxiter": 500, "ftol": 1e-12},
    )
    return (1.0, *(float(x) for x in np.round(found.x / _GRID) * _GRID))


def overlap(coefficients: Sequence[float], gap: int) -> float:
    """Inner product of two columns of C that are `gap` apart, divided by their squared norm."""
    c = np.asarray(coefficients, np.float64)
    return float(c[gap:] @ c[: max(0, len(c) - gap)] / (c @ c))


def squared_sensitivity_of_epochs(
    coefficients: Sequence[float], steps_per_epoch: int, steps: int
) -> float:
    """Squared sensitivity of C where each example is in at most one step of every epoch.

    Which step of the epoch is free, so that an example can be last in one epoch and first in the
    next; the largest over all such patterns, found by dynamic programming over the epochs. In
    units of one participation (C's columns have norm 1). Columns that the run's end cuts short
    count whole, which only overstates it.

    Guarantees (what epsilon depends on):
        For gradients of norm at most 1 the norm of C x over one example's steps is largest when
        all are equal, since C^T C has no negative entry (Choquette-Choo et al. 2022,
        arXiv:2211.06530, corollary 2.1).

    Args:
        coefficients: c_0 ..., none negative, no more than `steps_per_epoch`.
        steps_per_epoch: Steps of an epoch.
        steps: Steps in all; the last epoch may be cut short.
    """
    bands = len(coefficients)
    if bands > steps_per_epoch or min(coefficients) < 0:
        raise ValueError("Expected coefficients >= 0, no more than an epoch has steps.")
    overlaps = [2 * overlap(coefficients, gap) for gap in range(bands)]
    epochs, rest = divmod(steps, steps_per_epoch)
    lengths = [steps_per_epoch] * epochs + ([rest] if rest else [])
    best = np.zeros(0)  # by the position of the latest participation
    for length in lengths:
        before = best
        best = np.full(length, 1.0 + (before.max() if len(before) else 0.0))
        for position in range(min(length, bands - 1) if len(before) else 0):
            for gap in range(position + 1, bands):
                pair = before[steps_per_epoch + position - gap] + 1.0 + overlaps[gap]
                best[position] = max(best[position], pair)
    return float(best.max())
