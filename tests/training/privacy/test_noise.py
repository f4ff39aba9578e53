"""Noise: the planned Gaussian on every coordinate, fresh at every step, replayable by seed."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from training.privacy.noise import cosine_of_turns, gaussian_noise, with_noise
from training.privacy.plan import PrivacyPlan
from training.randomness import Randomness

PLAN = PrivacyPlan.dp_sgd(
    num_examples=1_000,
    batch_size=50,
    steps=10,
    clipping_norm=0.4,
    noise_multiplier=2.5,
    delta=1e-5,
)
SHAPES = [(120, 100), (100,), (20, 10, 15)]


def noise(step: int, seed: int = 0, shapes=SHAPES) -> list[np.ndarray]:
    """What the query adds to sums of zero at a step."""
    query = PLAN.query()
    draws = PLAN.draws(step, Randomness.from_seed(seed), len(shapes))
    state = query.seeded_global_state(tf.constant(draws.seeds), tf.constant(draws.coefficients))
    noised, _, _ = query.get_noised_result([tf.zeros(shape) for shape in shapes], state)
    return [value.numpy() for value in noised]


def correlation(x: np.ndarray, y: np.ndarray) -> float:
    size = min(x.size, y.size)
    return float(np.corrcoef(x.ravel()[:size], y.ravel()[:size])[0, 1])


def test_noise_has_the_planned_standard_deviation():
    drawn = np.concatenate([value.ravel() for step in range(20) for value in noise(step)])
    assert PLAN.noise_stddev == 1.0
    # 302,000 draws: standard error of the deviation 1 / sqrt(2 n) = 0.0013.
    assert drawn.std() == pytest.approx(PLAN.noise_stddev, abs=0.006)
    assert drawn.mean() == pytest.approx(0.0, abs=0.009)


@pytest.mark.parametrize("variable", range(len(SHAPES)))
def test_noise_passes_a_kolmogorov_smirnov_test_against_the_planned_gaussian(variable):
    drawn = np.concatenate([noise(step, seed=4)[variable].ravel() for step in range(30)])
    assert stats.kstest(drawn, stats.norm(0, PLAN.noise_stddev).cdf).pvalue > 1e-3


def test_noise_compiled_with_xla_is_the_planned_gaussian():
    query = PLAN.query()

    @tf.function(jit_compile=True)
    def compiled(seeds: tf.Tensor) -> tf.Tensor:
        state = query.seeded_global_state(seeds, tf.ones(1))
        return query.get_noised_result([tf.zeros((300, 200))], state)[0][0]

    first, second = (
        compiled(tf.constant(PLAN.draws(step, Randomness.from_seed(4), 1).seeds)).numpy()
        for step in (0, 1)
    )
    for drawn in (first, second):
        assert stats.kstest(drawn.ravel(), stats.norm(0, PLAN.noise_stddev).cdf).pvalue > 1e-3
    assert abs(correlation(first, second)) < 0.02  # 60,000 pairs: standard error 0.004


def test_noise_is_independent_over_steps_variables_and_runs():
    same_shape = [(200, 100), (200, 100)]
    first, second = noise(0, shapes=same_shape)
    later, _ = noise(1, shapes=same_shape)
    other_run, _ = noise(0, seed=1, shapes=same_shape)
    # 20,000 pairs: standard error 0.007.
    for other in (second, later, other_run):
        assert abs(correlation(first, other)) < 0.035
    assert abs(correlation(first[1:], first[:-1])) < 0.035


def test_same_seeds_give_the_same_noise():
    for once, again in zip(noise(3), noise(3), strict=True):
        assert np.array_equal(once, again)


def test_unseeded_runs_never_share_noise():
    one, two = (Randomness.from_seed(None) for _ in range(2))
    assert not np.array_equal(
        one.stateless_seeds("noise", 0, 3), two.stateless_seeds("noise", 0, 3)
    )


def test_noise_is_added_to_the_sum():
    query = PLAN.query()
    draws = PLAN.draws(0, Randomness.from_seed(0), 1)
    total = tf.random.stateless_normal((50, 40), (1, 2)) * 100
    state = query.seeded_global_state(tf.constant(draws.seeds), tf.constant(draws.coefficients))
    noised, _, _ = query.get_noised_result([total], state)
    alone = noise(0, shapes=[(50, 40)])[0]
    assert noised[0].numpy() - total.numpy() == pytest.approx(alone, abs=1e-4)


# A small tensor's noise is drawn by TensorFlow's operations, a large one's by compiled programs.
SMALL, LARGE = 4_000, 70_000


def test_cosine_of_turns_is_the_cosine():
    turns = np.linspace(-1.0, 1.0, 400_001, dtype=np.float32)
    expected = np.cos(2.0 * np.pi * turns.astype(np.float64))
    assert np.abs(cosine_of_turns(tf.constant(turns)).numpy() - expected).max() < 1.2e-7


def test_large_tensors_noise_is_the_planned_gaussian():
    # An odd number of elements leaves half of the last pair out.
    (first,), (second,) = (noise(step, shapes=[(LARGE // 7, 7)]) for step in (0, 1))
    for drawn in (first, second):
        assert drawn.std() == pytest.approx(PLAN.noise_stddev, abs=0.011)  # standard error 0.0027
        assert stats.kstest(drawn.ravel(), stats.norm(0, PLAN.noise_stddev).cdf).pvalue > 1e-3
    assert abs(correlation(first, second)) < 0.02  # standard error 0.004
    halves = np.split(first.ravel(), 2)  # cosines and sines of the same angles
    assert abs(correlation(*halves)) < 0.025  # standard error 0.005
    assert abs(correlation(*(half**2 for half in halves))) < 0.025


def test_odd_numbers_of_elements_leave_out_half_a_pair():
    seed = tf.constant([3, 4], tf.int64)
    for size in (5, LARGE + 1):
        drawn = gaussian_noise(tf.TensorShape([size]), tf.constant(1.0), seed).numpy()
        whole = gaussian_noise(tf.TensorShape([size + 1]), tf.constant(1.0), seed).numpy()
        assert np.array_equal(drawn, whole[:-1])


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_noise_added_at_once_is_the_noise_drawn_alone(size):
    seed, total = tf.constant([3, 4], tf.int64), tf.fill([size], 2.0)
    alone = gaussian_noise(total.shape, tf.constant(1.5), seed).numpy()
    added = with_noise(total, tf.constant([1.5]), seed[None]).numpy()
    # The sum may be rounded once, product and sum together: a few parts in 2^24 of 8.
    assert added == pytest.approx(2.0 + alone, abs=2e-6)


@pytest.mark.parametrize("size", [SMALL, LARGE])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_draw_that_is_taken_back_cancels_to_the_last_bit(jit_compile, size):
    (seed,) = Randomness.from_seed(2).stateless_seeds("noise", 0, 1)
    add = tf.function(
        lambda total, sign: with_noise(total, sign * tf.constant([2.0, 0.0]), tf.stack([seed] * 2)),
        jit_compile=jit_compile,
    )
    zero = tf.zeros([size])
    added, taken = (add(zero, tf.constant(sign)).numpy() for sign in (1.0, -1.0))
    assert added.std() == pytest.approx(2.0, rel=0.06)  # standard error 1.1 %
    assert np.array_equal(added, -taken)


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_terms_add_up_with_their_coefficients(size):
    seeds = Randomness.from_seed(2).stateless_seeds("noise", 0, 3)
    zero = tf.zeros([size])
    alone = [with_noise(zero, tf.ones([1]), seeds[term : term + 1]).numpy() for term in range(3)]
    found = with_noise(zero, tf.constant([1.5, -0.5, 0.0]), tf.constant(seeds)).numpy()
    assert found == pytest.approx(1.5 * alone[0] - 0.5 * alone[1], abs=1e-5)


def test_query_reports_the_event_that_is_accounted():
    query = PLAN.query()
    state = query.seeded_global_state(tf.zeros([1, 1, 2], tf.int64), tf.ones(1))
    _, _, event = query.get_noised_result([tf.zeros([3])], state)
    assert float(event.noise_multiplier) == pytest.approx(PLAN.noise_multiplier)


def test_streams_of_different_purpose_differ():
    randomness = Randomness.from_seed(0)
    seeds = {
        tuple(randomness.stateless_seeds(purpose, step, 1)[0])
        for purpose in ("noise", "other")
        for step in range(100)
    }
    assert len(seeds) == 200


@pytest.mark.parametrize("size", [SMALL, LARGE])
@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("stddev", [1e-30, 1e-20, 1e-12, 1e12, 1e25])
def test_noise_neither_vanishes_nor_overflows_with_its_scale(stddev, jit_compile, size):
    draw = tf.function(
        lambda scale: gaussian_noise(tf.TensorShape([size]), scale, tf.constant([3, 4], tf.int64)),
        jit_compile=jit_compile,
    )
    unit = draw(tf.constant(1.0)).numpy()
    assert draw(tf.constant(stddev)).numpy() / stddev == pytest.approx(unit, rel=1e-5, abs=1e-6)
