"""Tables by group and label: what they count, and what one person can change of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from training.fairness.constraints import RateConstraint
from training.fairness.player import Game, Player
from training.fairness.reweighing import ReleasedWeights
from training.privacy.score_histogram import SENSITIVITY

GROUPS, LABELS = 3, 2
ANY = st.one_of(st.floats(-2, 5, width=32), st.floats(width=32))
PERSON = st.tuples(ANY, ANY, st.integers(0, GROUPS - 1), st.integers(0, LABELS - 1))


class OfLosses(RateConstraint):
    """A rule whose tables hold losses: only the tables matter here."""

    statistic = "loss"


NAMES = ("a", "b", "c")
RULES = {
    "selection": RateConstraint(NAMES, {"all": (True, True)}, 0.0, 1.0, 1.0),
    "loss": OfLosses(NAMES, {"all": (True, True)}, 0.0, 1.0, 1.0),
    "counts": ReleasedWeights(NAMES, ("no", "yes"), 0.01),
}


def player_of(statistic: str) -> Player:
    game = Game(RULES[statistic], "ward", (GROUPS, LABELS), 1, None, loss_unit=2.0)
    return Player(game, tf.distribute.get_strategy())


PLAYERS = {name: player_of(name) for name in RULES}


def table_of(statistic: str, people: list) -> np.ndarray:
    """The table of some people: (logit, loss, group, label), among rows of padding."""
    rows = [*people, (math.nan, math.nan, 0, 0)]
    batch = {
        "labels": tf.constant([p[3] for p in rows], tf.int32),
        "groups": {"ward": tf.constant([p[2] for p in rows], tf.int32)},
        "mask": tf.constant([True] * len(people) + [False]),
    }
    logits = tf.constant([[0.0, p[0]] for p in rows], tf.float32)
    losses = tf.constant([p[1] for p in rows], tf.float32)
    return PLAYERS[statistic].bounded_table(batch, logits, losses).numpy().astype(np.float64)


@pytest.mark.parametrize("statistic", sorted(RULES))
@settings(deadline=None, max_examples=60)
@given(others=st.lists(PERSON, max_size=4), person=PERSON, another=PERSON)
def test_one_person_moves_a_table_by_no_more_than_its_sensitivity(
    statistic, others, person, another
):
    without, with_one = table_of(statistic, others), table_of(statistic, [*others, person])
    replaced = table_of(statistic, [*others, another])
    # Whatever answer and loss, NaN and infinity among them.
    room = 1 + 1e-9
    assert 0.7 < np.linalg.norm(with_one - without) <= room * SENSITIVITY["add_remove"]
    assert np.linalg.norm(with_one - without) <= room * SENSITIVITY["zero_out"]
    assert np.linalg.norm(with_one - replaced) <= room * SENSITIVITY["replace_one"]
    assert with_one.sum() == pytest.approx(len(others) + 1)


def test_one_person_among_very_many_moves_a_table_by_what_they_add():
    many, losses = 100_000, np.random.default_rng(0).random(100_001, np.float32)
    batch = {
        "labels": tf.zeros([many + 1], tf.int32),
        "groups": {"ward": tf.zeros([many + 1], tf.int32)},
    }
    without, with_one = (
        PLAYERS["loss"]
        .bounded_table(
            {**batch, "mask": tf.range(many + 1) < people}, tf.zeros([many + 1, 2]), losses
        )
        .numpy()
        for people in (many, many + 1)
    )
    share = float(losses[-1] / np.float32(2.0))
    # In float32 it would be a multiple of the last digit of 25,000, two thousandths.
    assert (with_one - without)[0, 0] == pytest.approx([1 - share, share], abs=1e-9)


def test_sensitivity_is_reached():
    one, other = (1.0, 0.0, 0, 0), (-1.0, 0.0, 0, 0)
    moved = table_of("selection", [one]) - table_of("selection", [other])
    assert np.linalg.norm(moved) == pytest.approx(SENSITIVITY["replace_one"])


def test_table_counts_answers_and_adds_up_losses():
    people = [(1.0, 0.5, 0, 1), (-1.0, 3.0, 0, 1), (1.0, 1.0, 2, 0)]
    selection = np.zeros((GROUPS, LABELS, 2))
    selection[0, 1] = [1, 1]
    selection[2, 0] = [0, 1]
    assert np.array_equal(table_of("selection", people), selection)
    losses = np.zeros((GROUPS, LABELS, 2))
    losses[0, 1] = [0.75, 1.25]  # of a bound of 2: a quarter, and 3 counts as 2
    losses[2, 0] = [0.5, 0.5]
    assert table_of("loss", people) == pytest.approx(losses)
    counts = np.zeros((GROUPS, LABELS, 1))
    counts[0, 1], counts[2, 0] = 2, 1
    assert np.array_equal(table_of("counts", people), counts)
