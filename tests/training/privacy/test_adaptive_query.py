"""Adaptive clipping: TF-Privacy's own arithmetic, at the cost of one release, on the quantile."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from configs.schema import ClippingSettings, MechanismSettings, PrivacySettings, SettingError
from training.privacy.accounting import epsilon_of
from training.privacy.adaptive_query import half_counts
from training.privacy.clip_methods import AdaptiveClipping
from training.privacy.events import poisson_gaussian_event
from training.privacy.mechanisms import GaussianMechanism
from training.privacy.plan import PrivacyPlan
from training.privacy.sampling import PoissonSampling
from training.privacy.tf_privacy import QuantileAdaptiveClipSumQuery
from training.randomness import Randomness

METHOD = AdaptiveClipping(1.5, target_quantile=0.4, learning_rate=0.3, count_share=0.2)
PLAN = PrivacyPlan(PoissonSampling(1_000, 30), METHOD, GaussianMechanism(0.9), steps=50, delta=1e-4)
SHAPES = [(3, 2), (2,)]
SEEDS = Randomness.from_seed(0)


def release(plan: PrivacyPlan, sums: list[Any], count: Any, bound: float, step: int) -> Any:
    """One release of the plan's query: noised sums and the next bound."""
    query = plan.query()
    draws = plan.draws(step, SEEDS, len(sums) + 1)
    state = query.seeded_global_state(
        tf.constant(draws.seeds), tf.constant(draws.coefficients), bound
    )
    noised, state, event = query.get_noised_result([*sums, count], state)
    return noised, float(query.bound(state)), event


def test_bounds_and_releases_are_those_of_tf_privacy_with_the_same_noise(monkeypatch: Any) -> None:
    from tensorflow_privacy.privacy.dp_query import gaussian_query

    generator = np.random.default_rng(5)
    zeros = [tf.zeros(shape) for shape in SHAPES]
    given: list[tf.Tensor] = []
    # The stock query draws through this one function: sums first, then the count.
    monkeypatch.setattr(
        gaussian_query.tf,
        "random_normal_initializer",
        lambda stddev: lambda shape: given.pop(0) if given else tf.zeros(shape),
    )
    stock = QuantileAdaptiveClipSumQuery(
        initial_l2_norm_clip=1.5,
        noise_multiplier=METHOD.sum_noise_multiplier(0.9, 30),
        target_unclipped_quantile=0.4,
        learning_rate=0.3,
        clipped_count_stddev=METHOD.count_stddev(0.9, 30),
        expected_num_records=30,
    )
    theirs, bound = stock.initial_global_state(), 1.5
    for step in range(8):
        records = [
            [tf.constant(generator.normal(size=shape) * size, tf.float32) for shape in SHAPES]
            for size in generator.lognormal(size=generator.integers(0, 40))
        ]
        norms = tf.constant([float(tf.linalg.global_norm(record)) for record in records])
        factors = tf.minimum(1.0, bound / norms)
        sums = [
            tf.add_n([factor * record[i] for factor, record in zip(factors, records, strict=True)])
            if records
            else zeros[i]
            for i in range(len(SHAPES))
        ]
        count = tf.reduce_sum(half_counts(norms, tf.ones_like(norms, tf.bool), bound))
        noise, _, _ = release(PLAN, zeros, tf.constant(0.0), bound, step)
        count_noise = noise_of_count(bound, step)
        ours, next_bound, _ = release(PLAN, sums, count, bound, step)

        samples = stock.initial_sample_state(zeros)
        params = stock.derive_sample_params(theirs)
        for record in records:
            samples = stock.accumulate_record(params, samples, record)
        given[:] = [*noise, count_noise]
        expected, theirs, _ = stock.get_noised_result(samples, theirs)
        for one, other in zip(ours, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
        bound = next_bound
        assert bound == float(stock.derive_metrics(theirs)["clip"])
    assert bound != 1.5


def noise_of_count(bound: float, step: int) -> tf.Tensor:
    """What is added to the count, in examples."""
    draws = PLAN.draws(step, SEEDS, len(SHAPES) + 1)
    query = PLAN.query()
    state = query.seeded_global_state(
        tf.constant(draws.seeds), tf.constant(draws.coefficients), bound
    ).quantile_estimator_state.below_estimate_state.numerator_state
    counter = query._quantile_estimator_query._below_estimate_query._numerator
    return counter.get_noised_result(tf.constant(0.0), state)[0]


@pytest.mark.parametrize(("share", "batch_size"), [(None, 500), (0.3, 30)])
def test_sum_and_count_together_cost_what_the_ledger_pays(
    share: float | None, batch_size: int
) -> None:
    method = AdaptiveClipping(1.0, count_share=share)
    plan = PrivacyPlan(
        PoissonSampling(1_000, batch_size), method, GaussianMechanism(0.9), steps=50, delta=1e-4
    )
    _, _, event = release(plan, [tf.zeros(2)], tf.constant(0.0), 1.0, 0)
    # Two Gaussian releases of one batch are one, whose 1/noise^2 is the sum of theirs.
    of_sum, of_count = (float(each.noise_multiplier) for each in event.events)
    assert of_count == pytest.approx(2 * method.count_stddev(0.9, batch_size))
    assert (of_sum**-2 + of_count**-2) ** -0.5 == pytest.approx(0.9, rel=1e-6)
    paid = plan.epsilon(50)
    both = poisson_gaussian_event(
        plan.sampling.probability, (of_sum**-2 + of_count**-2) ** -0.5, 50
    )
    assert paid == pytest.approx(epsilon_of(both, 1e-4), rel=1e-4)
    alone = poisson_gaussian_event(plan.sampling.probability, of_sum, 50)
    assert epsilon_of(alone, 1e-4) < paid


def test_count_takes_what_andrew_et_al_recommend_where_batches_are_large() -> None:
    method = AdaptiveClipping(1.0)
    assert method.count_stddev(1.2, 2_000) == pytest.approx(2_000 / 20)
    assert method.sum_noise_multiplier(1.2, 2_000) == pytest.approx(
        (1.2**-2 - (2 * 100) ** -2) ** -0.5
    )
    assert method.share(1.2, 20) == 0.1


@pytest.mark.parametrize(("quantile", "start"), [(0.2, 5.0), (0.5, 5.0), (0.9, 0.005)])
def test_bound_converges_to_the_quantile_asked_for(quantile: float, start: float) -> None:
    method = AdaptiveClipping(start, target_quantile=quantile)
    plan = PrivacyPlan(
        PoissonSampling(10_000, 400), method, GaussianMechanism(1.0), steps=200, delta=1e-5
    )
    norms = np.random.default_rng(0).lognormal(mean=-2.0, size=10_000).astype("float32")
    sampler, bound, seen = plan.sampler(SEEDS), tf.constant(start), []
    run = tf.function(lambda count, seeds, bound: advance(plan, count, seeds, bound))
    for step in range(120):
        drawn = tf.constant(norms[sampler.draw(step)])
        count = tf.reduce_sum(half_counts(drawn, tf.ones_like(drawn, tf.bool), bound))
        bound = run(count, tf.constant(plan.draws(step, SEEDS, 2).seeds), bound)
        seen.append(float(bound))
    settled = np.exp(np.mean(np.log(seen[-60:])))
    # The noise of 20 on a count of 400 leaves the average over 60 steps within 0.02.
    assert np.mean(norms <= settled) == pytest.approx(quantile, abs=0.02)


def advance(plan: PrivacyPlan, count: tf.Tensor, seeds: tf.Tensor, bound: tf.Tensor) -> tf.Tensor:
    query = plan.query()
    state = query.seeded_global_state(seeds, tf.ones(1), bound)
    _, state, _ = query.get_noised_result([tf.zeros(1), count], state)
    return query.bound(state)


def test_count_is_divided_by_the_expected_batch_size_never_by_the_drawn() -> None:
    """An empty draw leaves half of the expected examples unclipped; nothing tells it apart."""
    _, bound, _ = release(PLAN, [tf.zeros(2)], tf.constant(0.0), 1.5, 0)
    draws = PLAN.draws(0, SEEDS, 2)
    assert draws.seeds.shape == (1, 2, 2)
    query = PLAN.query()
    state = query.seeded_global_state(
        tf.constant(draws.seeds), tf.constant(draws.coefficients), 1.5
    )
    below = state.quantile_estimator_state.below_estimate_state
    counter = query._quantile_estimator_query._below_estimate_query._numerator
    noise = float(counter.get_noised_result(tf.constant(0.0), below.numerator_state)[0])
    fraction = min(1.0, max(0.0, 0.5 + noise / 30))
    assert bound == pytest.approx(1.5 * np.exp(-0.3 * (fraction - 0.4)), rel=1e-6)


def test_one_record_moves_the_count_by_one_half() -> None:
    norms = tf.constant([0.1, 1.0, 1.1, np.inf, np.nan, 0.2])
    used = tf.constant([True, True, True, False, False, False])
    np.testing.assert_array_equal(half_counts(norms, used, 1.0), [0.5, 0.5, -0.5, 0, 0, 0])


def test_noise_follows_the_bound_in_use() -> None:
    zeros = [tf.zeros((200, 100))]
    for bound in (0.01, 1.0, 30.0):
        noised, _, _ = release(PLAN, zeros, tf.constant(0.0), bound, 3)
        expected = METHOD.sum_noise_multiplier(0.9, 30) * bound
        assert np.std(noised[0]) == pytest.approx(expected, rel=0.02)  # standard error 0.005


def test_adaptive_bound_with_noise_that_steps_share_is_refused() -> None:
    settings = PrivacySettings(
        enabled=True,
        noise_multiplier=1.0,
        clipping=ClippingSettings("adaptive"),
        mechanism=MechanismSettings("tree"),
    )
    with pytest.raises(SettingError, match=r"privacy\.clipping\.method: .* goes with gaussian"):
        PrivacyPlan.from_settings(settings, num_examples=1000, batch_size=10, steps=9)
