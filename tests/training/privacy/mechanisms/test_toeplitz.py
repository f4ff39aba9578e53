"""Banded Toeplitz strategies against dense matrices and brute force."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import toeplitz

from training.privacy.mechanisms.toeplitz import (
    best_coefficients,
    noise_in_prefix_sums,
    overlap,
    square_root_coefficients,
    squared_sensitivity_of_epochs,
)


def strategy(coefficients, steps: int) -> np.ndarray:
    """The matrix C."""
    column = np.zeros(steps)
    column[: len(coefficients)] = coefficients[:steps]
    return toeplitz(column, np.zeros(steps))


def prefix_matrix(steps: int) -> np.ndarray:
    return np.tri(steps)


def test_square_root_squared_is_the_prefix_matrix():
    root = strategy(square_root_coefficients(30), 30)
    assert root @ root == pytest.approx(prefix_matrix(30))


@pytest.mark.parametrize("steps", [10, 100, 1000, 10_000])
def test_square_root_has_the_error_that_was_published(steps):
    # Of the last prefix sum; these are Landau's constants, bounded so by Brutman 1982. That
    # ln(n) / pi is best possible: Fichtenberger et al. 2023, Matousek et al. 2020.
    error = np.sqrt(noise_in_prefix_sums(square_root_coefficients(steps), steps)[-1])
    assert 1 + np.log(steps) / np.pi <= error < 1.0663 + np.log(steps) / np.pi


coefficients_ = st.lists(st.floats(0.0, 1.0), min_size=1, max_size=5).map(lambda tail: [1.0, *tail])


@given(coefficients=coefficients_, steps=st.integers(5, 20))
@settings(deadline=None, max_examples=50)
def test_noise_in_prefix_sums_is_that_of_the_matrices(coefficients, steps):
    c = strategy(coefficients, steps)
    rows = prefix_matrix(steps) @ np.linalg.inv(c)
    expected = (rows**2).sum(axis=1) * np.sum(np.square(coefficients))
    assert noise_in_prefix_sums(coefficients, steps) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("bands", "steps"), [(2, 20), (4, 60), (8, 400), (16, 400)])
def test_best_coefficients_have_the_least_noise(bands, steps):
    best = best_coefficients(bands, steps)
    least = noise_in_prefix_sums(best, steps).mean()
    root = noise_in_prefix_sums(square_root_coefficients(bands), steps).mean()
    assert least < root < noise_in_prefix_sums([1.0], steps).mean()
    for place, change in product(range(1, bands), (-1e-3, 1e-3)):
        other = np.array(best)
        other[place] += change
        assert noise_in_prefix_sums(other, steps).mean() > least
    assert best[0] == 1.0
    assert all(np.float32(c) == c >= 0 for c in best)  # what the graph computes with


def test_more_bands_leave_less_noise():
    noise = [noise_in_prefix_sums(best_coefficients(b, 256), 256).mean() for b in (2, 4, 8, 32)]
    assert noise == sorted(noise, reverse=True)


def brute_force_sensitivity(coefficients, steps_per_epoch: int, steps: int) -> float:
    """The largest squared norm of C x over all choices of at most one step an epoch."""
    # Room below, so that no column is cut short, as the bound has it.
    c = strategy(coefficients, steps + len(coefficients))
    epochs = [
        [None, *range(first, min(first + steps_per_epoch, steps))]
        for first in range(0, steps, steps_per_epoch)
    ]
    largest = 0.0
    for places in product(*epochs):
        chosen = [place for place in places if place is not None]
        largest = max(largest, float((c[:, chosen].sum(axis=1) ** 2).sum()))
    return largest / float(np.sum(np.square(coefficients)))


@given(coefficients=coefficients_, extra=st.integers(0, 2), steps=st.integers(1, 16))
@settings(deadline=None, max_examples=60)
def test_sensitivity_of_epochs_is_the_largest_over_all_patterns(coefficients, extra, steps):
    steps_per_epoch = max(3, len(coefficients) + extra)
    found = squared_sensitivity_of_epochs(coefficients, steps_per_epoch, steps)
    expected = brute_force_sensitivity(coefficients, steps_per_epoch, steps)
    assert found == pytest.approx(expected, rel=1e-9)


def test_gradients_in_any_direction_move_it_no_further():
    coefficients, generator = best_coefficients(3, 12), np.random.default_rng(0)
    c = strategy(coefficients, 16)
    bound = squared_sensitivity_of_epochs(coefficients, 4, 12) * np.sum(np.square(coefficients))
    largest = 0.0
    for _ in range(300):
        x = np.zeros((16, 3))
        for first in (0, 4, 8):
            direction = generator.normal(size=3)
            x[first + generator.integers(4)] = direction / np.linalg.norm(direction)
        largest = max(largest, float(((c @ x) ** 2).sum()))
    assert 0.3 * bound < largest <= bound


def test_columns_that_are_bands_apart_share_no_row():
    coefficients = best_coefficients(4, 20)
    assert [overlap(coefficients, gap) for gap in (4, 5, 9)] == [0, 0, 0]
    c = strategy(coefficients, 20)
    # Every pattern of a cyclic group: its columns' squared norms simply add up.
    for first in range(4):
        columns = c[:, first::4]
        norms = (columns**2).sum(axis=0)
        assert (columns.sum(axis=1) ** 2).sum() == pytest.approx(norms.sum())
        assert norms.max() == pytest.approx(np.sum(np.square(coefficients)))


def test_more_bands_than_steps_of_an_epoch_are_refused():
    with pytest.raises(ValueError, match="no more than an epoch has steps"):
        squared_sensitivity_of_epochs([1.0, 0.5, 0.3], 2, 8)
