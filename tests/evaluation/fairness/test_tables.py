"""Drawn tables are distributed as tables of drawn examples."""

from __future__ import annotations

import numpy as np
import pytest

from evaluation.fairness.tables import count_events

CELLS, GROUPS, EXAMPLES = 4, 3, 200


@pytest.fixture(scope="module")
def events():
    rng = np.random.default_rng(0)
    groups = rng.integers(0, GROUPS, EXAMPLES)
    return np.minimum(rng.geometric(0.4, EXAMPLES) - 1 + groups, CELLS - 1), groups


def _all(tables):
    return np.concatenate(list(tables))


def _by_hand(cells, groups):
    table = np.zeros((GROUPS, CELLS))
    np.add.at(table, (groups, cells), 1)
    return table


def test_counting(events):
    cells, groups = events
    expected = _by_hand(cells, groups)
    own = np.arange(EXAMPLES)
    shares = np.eye(GROUPS)[groups]
    for membership, example_of in ((groups, None), (groups, own), (shares, None), (shares, own)):
        found = count_events(cells, CELLS, membership, GROUPS, example_of)
        np.testing.assert_allclose(found.table, expected)


@pytest.mark.parametrize("kept_apart", [False, True])
def test_resamples_are_distributed_as_examples_drawn_with_replacement(events, kept_apart):
    cells, groups = events
    example_of = np.arange(EXAMPLES) if kept_apart else None
    table = count_events(cells, CELLS, groups, GROUPS, example_of)
    drawn = _all(table.resamples(4000, np.random.default_rng(1)))
    assert drawn.shape == (4000, GROUPS, CELLS)
    np.testing.assert_array_equal(drawn.sum(axis=(1, 2)), EXAMPLES)
    share = table.table / EXAMPLES
    deviation = np.sqrt(EXAMPLES * share * (1 - share))  # binomial
    error = 5 * deviation / np.sqrt(len(drawn)) + 1e-9
    assert (np.abs(drawn.mean(axis=0) - table.table) <= error).all()
    assert drawn.std(axis=0) == pytest.approx(deviation, rel=0.1)


@pytest.mark.parametrize("soft", [False, True])
def test_permutations_keep_margins_and_are_distributed_as_shuffled_groups(events, soft):
    cells, groups = events
    stratum = np.array([0, 0, 1, 1])
    membership = np.eye(GROUPS)[groups] if soft else groups
    table = count_events(cells, CELLS, membership, GROUPS, None)
    drawn = _all(table.permutations(2000, stratum, np.random.default_rng(2)))
    for value in (0, 1):
        rows = drawn[:, :, stratum == value].sum(axis=2)
        assert (rows == table.table[:, stratum == value].sum(axis=1)).all()
    assert (drawn.sum(axis=1) == table.table.sum(axis=0)).all()
    rng = np.random.default_rng(3)
    shuffled = []
    for _ in range(1000):
        exchanged = groups.copy()
        for value in (0, 1):
            inside = np.flatnonzero(stratum[cells] == value)
            exchanged[inside] = rng.permutation(groups[inside])
        shuffled.append(_by_hand(cells, exchanged))
    deviation = np.std(shuffled, axis=0)
    error = 5 * deviation * np.sqrt(1 / 1000 + 1 / 2000) + 1e-9
    assert (np.abs(drawn.mean(axis=0) - np.mean(shuffled, axis=0)) <= error).all()
    assert drawn.std(axis=0) == pytest.approx(deviation, rel=0.15, abs=1e-9)


def test_tokens_of_an_example_are_drawn_together():
    """Ten equal tokens an example: the spread is that of the examples, not of the tokens."""
    cells = np.repeat(np.arange(40) % 2, 10)
    example_of = np.repeat(np.arange(40), 10)
    table = count_events(cells, 2, np.zeros(400, int), 1, example_of)
    drawn = _all(table.resamples(3000, np.random.default_rng(0)))[:, 0, 1]
    assert (drawn % 10 == 0).all()
    assert drawn.std() == pytest.approx(10 * np.sqrt(40 * 0.25), rel=0.1)


def test_tokens_change_group_together():
    cells, example_of = np.tile([0, 1], 20), np.repeat(np.arange(20), 2)
    groups = np.repeat(np.arange(20) % 2, 2)
    table = count_events(cells, 2, groups, 2, example_of)
    drawn = _all(table.permutations(50, np.array([0, 1]), np.random.default_rng(0)))
    assert (drawn == 10).all()


def test_groups_left_out_take_their_examples_with_them(events):
    cells, groups = events
    kept = count_events(cells, CELLS, groups, GROUPS, np.arange(EXAMPLES)).of_groups(
        np.array([0, 2])
    )
    drawn = _all(kept.permutations(20, np.zeros(CELLS, int), np.random.default_rng(0)))
    assert (drawn.sum(axis=(1, 2)) == (groups != 1).sum()).all()
