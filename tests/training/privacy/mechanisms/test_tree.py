"""Tree aggregation: TF-Privacy's own prefix sums, dp_accounting's own cost."""

import dp_accounting
import numpy as np
import pytest
import tensorflow as tf
from dp_accounting import rdp
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.schema import SettingError
from tests.training.privacy.mechanisms.released import (
    STDDEV,
    assert_covariance,
    fresh_draws,
    released_noise,
)
from training.privacy.accounting import epsilon_of
from training.privacy.clip_methods import FlatClipping
from training.privacy.events import event_of
from training.privacy.mechanisms import TreeMechanism
from training.privacy.plan import PrivacyPlan
from training.privacy.sampling import PoissonSampling, ShuffledSampling
from training.privacy.tf_privacy import TreeAggregator, ValueGenerator
from training.randomness import Randomness


class InOrder(ValueGenerator):
    """Yields the rows of a matrix."""

    def __init__(self, rows: np.ndarray):
        self._rows = tf.constant(rows, tf.float32)

    def initialize(self):
        return tf.constant(0)

    def next(self, state):
        return self._rows[tf.minimum(state, len(self._rows) - 1)], state + 1


def prefix_sums_of_tf_privacy(draws: np.ndarray, steps_per_epoch: int) -> np.ndarray:
    """Prefix noise of TF-Privacy's aggregator, restarted every epoch, with these draws."""
    sums, before = [], np.zeros(draws.shape[1])
    for first in range(0, len(draws), steps_per_epoch):
        aggregator = TreeAggregator(InOrder(draws[first : first + steps_per_epoch]))
        state = aggregator.init_state()
        for _ in range(len(draws[first : first + steps_per_epoch])):
            total, state = aggregator.get_cumsum_and_update(state)
            sums.append(before + total.numpy())
        before = sums[-1]
    return np.stack(sums)


@pytest.mark.parametrize(("steps_per_epoch", "jit_compile"), [(8, False), (6, False), (6, True)])
def test_prefix_sums_are_those_of_tf_privacy_with_the_same_draws(steps_per_epoch, jit_compile):
    noises = released_noise(TreeMechanism(1.0, steps_per_epoch), 14, 7, jit_compile=jit_compile)
    draws = fresh_draws(14, 7, jit_compile=jit_compile)
    expected = prefix_sums_of_tf_privacy(draws, steps_per_epoch)
    # Sums of up to 30 float32 draws.
    assert np.cumsum(noises, axis=0) == pytest.approx(expected, abs=2e-5)


def residual_matrix(steps: int, steps_per_epoch: int) -> np.ndarray:
    """Row t holds what step t's noise takes of each fresh draw."""
    prefix = prefix_sums_of_tf_privacy(np.eye(steps), steps_per_epoch)
    return np.diff(prefix, axis=0, prepend=0)


def test_noise_has_the_covariance_of_the_tree():
    residuals = residual_matrix(11, 8)
    assert_covariance(released_noise(TreeMechanism(1.0, 8), 11, 40_000), residuals @ residuals.T)


def test_prefix_noise_grows_with_the_nodes_not_with_the_steps():
    prefix = np.cumsum(released_noise(TreeMechanism(1.0, 64), 64, 20_000), axis=0)
    nodes = [(step + 1).bit_count() for step in range(64)]
    # A variance of 20,000 draws has standard error 1 %.
    assert prefix.var(axis=1) / STDDEV**2 == pytest.approx(nodes, rel=0.05)


@given(steps_per_epoch=st.integers(1, 40), step=st.integers(0, 100))
@settings(deadline=None, max_examples=60)
def test_only_draws_that_are_needed_come_first(steps_per_epoch, step):
    draws = TreeMechanism(1.0, steps_per_epoch).draws(step, Randomness.from_seed(0), 2)
    leaf = step % steps_per_epoch
    used = np.count_nonzero(draws.coefficients)
    assert draws.coefficients.shape == (steps_per_epoch.bit_length(),)
    assert draws.coefficients[:used].all()
    assert used == 1 + ((leaf + 1) & -(leaf + 1)).bit_length() - 1  # a node for each trailing zero


@given(steps_per_epoch=st.integers(1, 40), steps=st.integers(1, 100))
@settings(deadline=None, max_examples=100)
def test_nodes_of_an_example_are_the_most_over_all_its_places(steps_per_epoch, steps):
    most = 0
    for first in range(0, steps, steps_per_epoch):
        # The node that step t completes holds as many steps as its number's lowest set bit.
        leaves = min(steps_per_epoch, steps - first)
        nodes = [range(t - (t & -t), t) for t in range(1, leaves + 1)]
        most += max(sum(place in node for node in nodes) for place in range(leaves))
    assert TreeMechanism(1.0, steps_per_epoch).nodes_of_an_example(steps) == most


@pytest.mark.parametrize("noise_multiplier", [0.8, 4.0])
@pytest.mark.parametrize(
    ("examples", "batch", "steps"), [(1600, 1, 1600), (100, 8, 39), (90, 9, 7)]
)
def test_cost_is_that_of_dp_accounting(noise_multiplier, examples, batch, steps):
    sampling = ShuffledSampling(examples, batch)
    mechanism = TreeMechanism(noise_multiplier, sampling.period)
    accountant = rdp.RdpAccountant(
        neighboring_relation=dp_accounting.NeighboringRelation.REPLACE_SPECIAL
    )
    trees = [sampling.period] * (steps // sampling.period) + [steps % sampling.period]
    for leaves in filter(None, trees):
        accountant.compose(
            dp_accounting.SingleEpochTreeAggregationDpEvent(noise_multiplier, leaves)
        )
    found = epsilon_of(event_of(sampling, mechanism, steps), 1e-6, "rdp")
    assert found == pytest.approx(accountant.get_epsilon(1e-6), rel=1e-12)


# Kairouz et al. 2021, StackOverflow: one epoch of 1,600 rounds, delta 1e-6.
@pytest.mark.parametrize(("noise_multiplier", "published"), [(1.13, 19.74), (8.83, 2.04)])
def test_renyi_curve_gives_the_epsilon_that_was_published(noise_multiplier, published):
    event = event_of(ShuffledSampling(1600, 1), TreeMechanism(noise_multiplier, 1600), 1600)
    accountant = rdp.RdpAccountant(orders=[1 + x / 100 for x in range(1, 2000)])
    accountant.compose(event)
    orders, curve = np.array(accountant._orders), np.array(accountant._rdp)
    # The conversion in use then: Mironov 2017, proposition 3.
    assert np.min(curve - np.log(1e-6) / (orders - 1)) == pytest.approx(published, abs=0.01)
    assert epsilon_of(event, 1e-6) < published


def test_tree_that_does_not_begin_with_the_epoch_is_refused():
    with pytest.raises(SettingError, match=r"steps_per_epoch: expected 13, the steps of an epoch"):
        PrivacyPlan(
            ShuffledSampling(100, 8), FlatClipping(1.0), TreeMechanism(1.0, 26), 26, delta=1e-4
        )


def test_tree_with_poisson_sampling_is_refused():
    with pytest.raises(SettingError, match=r"mechanism\.method: expected a mechanism .*gaussian"):
        event_of(PoissonSampling(100, 8), TreeMechanism(1.0, 13), 13)
