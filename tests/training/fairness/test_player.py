"""What a player's prices leave of a private step: each example's loss is its own."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from training.fairness import Game, Player
from training.fairness.constraints import BoundedGroupLoss, RateConstraint
from training.fairness.group_dro import GroupDro
from training.losses import cross_entropy
from training.privacy.clipping import clipped_gradient_sum

ROWS, BOUND = 12, 0.5
GROUPS, LABELS = ("a", "b"), ("no", "yes")
STRATA = {"yes": (False, True), "no": (True, False)}
RULES = {
    "rates": RateConstraint(GROUPS, STRATA, 0.0, 1.0, 9.0),
    "losses": BoundedGroupLoss(GROUPS, 0.1, 1.0, 1.0, 9.0),
    "dro": GroupDro(GROUPS, LABELS, True, 50, 1.0, 0.0, 1.0),
}


def player_of(name: str) -> Player:
    """One that has learned from a noisy table, and charges much."""
    game = Game(RULES[name], "ward", (2, 2), positive=1, counts=None)
    player = Player(game, tf.distribute.get_strategy())
    multipliers = player.state[0]
    multipliers.assign(np.random.default_rng(0).random(multipliers.shape) * 9)
    player.learn(tf.constant([[[9.0, 1], [-2, 8]], [[30, 0.5], [1, 2]]]))
    return player


def make_batch(seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    return {
        "inputs": {"features": tf.constant(rng.normal(size=(ROWS, 4)), tf.float32)},
        "labels": tf.constant(rng.integers(0, 2, ROWS), tf.int32),
        "groups": {"ward": tf.constant(rng.integers(0, 2, ROWS), tf.int32)},
        "mask": tf.range(ROWS) < ROWS - 2,
    }


@pytest.mark.parametrize("name", sorted(RULES))
def test_prices_leave_the_sensitivity_of_a_clipped_sum_as_it_was(name):
    player, batch, loss = player_of(name), make_batch(), cross_entropy(LABELS)
    features = keras.Input((4,), name="features")
    initializer = keras.initializers.RandomNormal(stddev=2.0, seed=1)
    logits = keras.layers.Dense(2, kernel_initializer=initializer)(features)
    model = keras.Model({"features": features}, logits)

    def sums(mask: tf.Tensor) -> np.ndarray:
        priced = player.priced(batch, loss)
        found = clipped_gradient_sum(model, priced, {**batch, "mask": mask}, BOUND)
        return np.concatenate([g.numpy().ravel() for g in found.gradients])

    whole, moved = sums(batch["mask"]), []
    for absent in range(ROWS - 2):
        moved.append(np.linalg.norm(whole - sums(batch["mask"] & (tf.range(ROWS) != absent))))
    assert max(moved) <= BOUND * (1 + 1e-5)
    assert max(moved) > 0.9 * BOUND


@pytest.mark.parametrize("name", sorted(RULES))
def test_priced_loss_of_an_example_does_not_see_the_others(name):
    player, batch, other = player_of(name), make_batch(0), make_batch(1)
    logits = tf.constant(np.random.default_rng(2).normal(size=(2, ROWS, 2)), tf.float32)

    def mixed(one, two):
        first = tf.reshape(tf.range(ROWS) == 0, [-1] + [1] * (one.shape.rank - 1))
        return tf.where(first, one, two)

    loss = cross_entropy(LABELS)
    own = player.priced(batch, loss)(batch["labels"], logits[0])
    among = tf.nest.map_structure(mixed, batch, other)
    same = player.priced(among, loss)(among["labels"], mixed(logits[0], logits[1]))
    assert same[0].numpy() == own[0].numpy()
    assert np.abs(same.numpy() - own.numpy()).max() > 0.1
