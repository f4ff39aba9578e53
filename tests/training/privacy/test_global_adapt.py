"""Global-Adapt: one factor below the threshold, one Gaussian release, a threshold that follows."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from configs.schema import (
    ClippingSettings,
    MechanismSettings,
    PrivacySettings,
    SettingError,
)
from tests.training.privacy.naive import cross_entropy, relative_error
from training.losses import cross_entropy as label_loss
from training.privacy.accounting import epsilon_of
from training.privacy.adaptive_query import half_counts
from training.privacy.clip_methods import FlatClipping, GlobalAdaptClipping
from training.privacy.clipping import clipped_gradient_sum
from training.privacy.events import poisson_gaussian_event
from training.privacy.mechanisms import GaussianMechanism
from training.privacy.plan import PrivacyPlan
from training.privacy.sampling import PoissonSampling
from training.randomness import Randomness
from training.steps import PrivateStep

METHOD = GlobalAdaptClipping(0.5, 2.0, target_quantile=0.8, learning_rate=0.3, count_share=0.2)
PLAN = PrivacyPlan(PoissonSampling(1_000, 30), METHOD, GaussianMechanism(0.9), steps=50, delta=1e-4)
SEEDS = Randomness.from_seed(0)


def release(plan: PrivacyPlan, sums: list[Any], count: Any, threshold: Any, step: int) -> Any:
    """One release of the plan's query: noised sums, the next threshold, and what it cost."""
    query = plan.query()
    draws = plan.draws(step, SEEDS, len(sums) + 1)
    state = query.seeded_global_state(
        tf.constant(draws.seeds), tf.constant(draws.coefficients), threshold
    )
    noised, state, event = query.get_noised_result([*sums, count], state)
    return noised, query.bound(state), event


def make_model() -> keras.Model:
    keras.utils.set_random_seed(2)
    dense = keras.layers.Dense
    return keras.Sequential([keras.Input((5,)), dense(4, activation="tanh"), dense(3)])


def make_batch() -> dict[str, tf.Tensor]:
    generator = np.random.default_rng(1)
    inputs = generator.normal(size=(8, 5)) * generator.choice([0.1, 1.0, 20.0], (8, 1))
    return {
        "inputs": tf.constant(inputs, tf.float32),
        "labels": tf.constant(np.arange(8) % 3, tf.int32),
        "mask": tf.constant(np.arange(8) != 3),
    }


@pytest.mark.parametrize("threshold", [0.2, 1.0, 50.0])
def test_sum_is_that_of_flat_clipping_at_the_threshold_in_units_of_the_bound(threshold):
    model, batch = make_model(), make_batch()
    found = clipped_gradient_sum(model, cross_entropy, batch, GlobalAdaptClipping(0.5, threshold))
    flat = clipped_gradient_sum(model, cross_entropy, batch, FlatClipping(threshold))
    expected = [g.numpy() * 0.5 / threshold for g in flat.gradients]
    assert relative_error(found.gradients, expected) <= 1e-6


def test_gradients_within_the_threshold_keep_the_direction_of_their_mean():
    """What clipping does not: the misalignment that Esipova et al. trace disparate impact to."""
    model, batch = make_model(), make_batch()

    def direction(clipping: Any) -> np.ndarray:
        found = clipped_gradient_sum(model, cross_entropy, batch, clipping).gradients
        flat = np.concatenate([g.numpy().ravel() for g in found])
        return flat / np.linalg.norm(flat)

    true = direction(1e6)
    assert direction(GlobalAdaptClipping(0.1, 1e3)) @ true == pytest.approx(1.0, abs=1e-6)
    assert direction(FlatClipping(0.1)) @ true < 0.9


def test_no_norm_leaves_the_bound_whatever_the_threshold():
    norms = tf.constant([[0.0], [1e-20], [0.5], [2.0], [1e30]])
    for threshold in (0.0, 1e-30, 0.5, 2.0, 1e20):
        factors = GlobalAdaptClipping(0.5, threshold).factors(norms, tf.constant([0.5]))
        assert np.isfinite(factors).all()
        assert (factors * norms <= 0.5 * (1 + 1e-6)).numpy().all()


@pytest.mark.parametrize(("share", "batch_size"), [(None, 500), (0.3, 30)])
def test_sum_and_count_together_cost_what_the_ledger_pays(share, batch_size):
    method = GlobalAdaptClipping(0.7, 3.0, count_share=share)
    plan = PrivacyPlan(
        PoissonSampling(1_000, batch_size), method, GaussianMechanism(0.9), steps=50, delta=1e-4
    )
    _, _, event = release(plan, [tf.zeros(2)], tf.constant(0.0), 3.0, 0)
    of_sum, of_count = (float(each.noise_multiplier) for each in event.events)
    assert of_count == pytest.approx(2 * method.count_stddev(0.9, batch_size))
    together = (of_sum**-2 + of_count**-2) ** -0.5
    assert together == pytest.approx(0.9, rel=1e-6)
    both = poisson_gaussian_event(plan.sampling.probability, together, 50)
    assert plan.epsilon(50) == pytest.approx(epsilon_of(both, 1e-4), rel=1e-4)
    alone = poisson_gaussian_event(plan.sampling.probability, of_sum, 50)
    assert epsilon_of(alone, 1e-4) < plan.epsilon(50)


def test_noise_on_the_sum_stays_whatever_the_threshold():
    zeros = [tf.zeros((200, 100))]
    for threshold in (0.01, 1.0, 30.0):
        noised, _, _ = release(PLAN, zeros, tf.constant(0.0), threshold, 3)
        expected = PLAN.noise_stddev
        assert expected == pytest.approx(0.9 / 0.8**0.5 * 0.5)
        assert np.std(noised[0]) == pytest.approx(expected, rel=0.02)  # standard error 0.005


def test_threshold_moves_as_the_paper_has_it():
    """Z exp(b - eta), with b the share beyond of the expected batch and nearly no noise."""
    method = GlobalAdaptClipping(0.5, 2.0, target_quantile=0.9, learning_rate=1.0, count_share=0.5)
    plan = PrivacyPlan(
        PoissonSampling(1_000, 40), method, GaussianMechanism(1e-4), steps=9, delta=1e-4
    )
    norms = tf.constant([0.5] * 28 + [3.0] * 12)
    count = tf.reduce_sum(half_counts(norms, tf.ones_like(norms, tf.bool), 2.0))
    _, threshold, _ = release(plan, [tf.zeros(2)], count, 2.0, 0)
    assert float(threshold) == pytest.approx(2.0 * np.exp(12 / 40 - 0.1), rel=1e-4)


def test_threshold_converges_to_the_quantile_asked_for():
    method = GlobalAdaptClipping(1.0, 0.01, target_quantile=0.8)
    plan = PrivacyPlan(
        PoissonSampling(10_000, 400), method, GaussianMechanism(1.0), steps=200, delta=1e-5
    )
    norms = np.random.default_rng(0).lognormal(mean=-2.0, size=10_000).astype("float32")
    sampler, threshold, seen = plan.sampler(SEEDS), tf.constant(0.01), []
    query = plan.query()

    @tf.function
    def advance(count: tf.Tensor, seeds: tf.Tensor, threshold: tf.Tensor) -> tf.Tensor:
        state = query.seeded_global_state(seeds, tf.ones(1), threshold)
        return query.bound(query.get_noised_result([tf.zeros(1), count], state)[1])

    for step in range(120):
        drawn = tf.constant(norms[sampler.draw(step)])
        count = tf.reduce_sum(half_counts(drawn, tf.ones_like(drawn, tf.bool), threshold))
        threshold = advance(count, tf.constant(plan.draws(step, SEEDS, 2).seeds), threshold)
        seen.append(float(threshold))
    settled = np.exp(np.mean(np.log(seen[-60:])))
    # The noise of 20 on a count of 400 leaves the average over 60 steps within 0.02.
    assert np.mean(norms <= settled) == pytest.approx(0.8, abs=0.02)


def test_step_moves_its_threshold_and_keeps_it_for_a_checkpoint():
    model = make_model()
    step = PrivateStep(
        model,
        label_loss(["a", "b", "c"]),
        keras.optimizers.SGD(0.1),
        tf.distribute.get_strategy(),
        accumulates=False,
        plan=PLAN,
    )
    assert step.released() == {"clipping_threshold": 2.0}
    step.finish(make_batch(), step.draws(0, SEEDS), accumulated=False)
    (threshold,) = step.state
    moved = step.released()["clipping_threshold"]
    assert moved == float(threshold)
    assert 0.7 < moved / 2.0 < 1.5
    assert moved != 2.0


def test_noise_that_steps_share_is_refused():
    settings = PrivacySettings(
        enabled=True,
        noise_multiplier=1.0,
        clipping=ClippingSettings("global_adapt"),
        mechanism=MechanismSettings("tree"),
    )
    with pytest.raises(SettingError, match=r"privacy\.clipping\.method: .*'global_adapt'"):
        PrivacyPlan.from_settings(settings, num_examples=1000, batch_size=10, steps=9)
