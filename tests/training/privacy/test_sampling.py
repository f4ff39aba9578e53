"""Poisson sampling: independent, at the rate that is accounted, processed whole."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from training.batching import PADDING, Batching, ShuffledSampler, physical_batches
from training.privacy.sampling import PoissonSampler
from training.randomness import Randomness

EXAMPLES, RATE, STEPS = 400, 0.1, 600


def membership(seed: int = 0) -> np.ndarray:
    """Whether each example is in each step's batch, bool (steps, examples)."""
    sampler = PoissonSampler(EXAMPLES, RATE, Randomness.from_seed(seed))
    drawn = np.zeros((STEPS, EXAMPLES), bool)
    for step in range(STEPS):
        drawn[step, sampler.draw(step)] = True
    return drawn


def test_every_example_is_drawn_at_the_accounted_rate():
    counts = membership().sum(axis=0)
    spread = np.sqrt(STEPS * RATE * (1 - RATE))
    assert np.abs(counts - STEPS * RATE).max() < 5 * spread
    # Counts over examples follow Binomial(steps, rate): neither too even nor too uneven.
    assert 0.8 < counts.std() / spread < 1.2


def test_batch_sizes_vary_as_independent_draws_do():
    sizes = membership().sum(axis=1)
    result = stats.kstest(
        sizes + np.random.default_rng(0).random(STEPS) - 0.5,
        stats.norm(EXAMPLES * RATE, np.sqrt(EXAMPLES * RATE * (1 - RATE))).cdf,
    )
    assert result.pvalue > 1e-3


def test_steps_and_examples_are_independent():
    drawn = membership().astype(float) - RATE
    variance = RATE * (1 - RATE)
    between_steps = (drawn[1:] * drawn[:-1]).mean() / variance
    between_examples = (drawn[:, 1:] * drawn[:, :-1]).mean() / variance
    # Means of about 240,000 products: standard error 0.002.
    assert abs(between_steps) < 0.01
    assert abs(between_examples) < 0.01


def test_same_root_draws_the_same_at_any_time():
    sampler = PoissonSampler(EXAMPLES, RATE, Randomness.from_seed(1))
    again = PoissonSampler(EXAMPLES, RATE, Randomness.from_seed(1))
    sampler.draw(3)
    assert np.array_equal(sampler.draw(7), again.draw(7))
    other = PoissonSampler(EXAMPLES, RATE, Randomness.from_seed(2))
    assert not np.array_equal(sampler.draw(7), other.draw(7))


def test_unseeded_runs_draw_differently():
    one, two = (PoissonSampler(EXAMPLES, RATE, Randomness.from_seed(None)) for _ in range(2))
    assert not np.array_equal(one.draw(0), two.draw(0))


def test_nobody_is_drawn_twice_in_a_step():
    sampler = PoissonSampler(EXAMPLES, 0.9, Randomness.from_seed(0))
    drawn = sampler.draw(0)
    assert len(set(drawn.tolist())) == len(drawn)


def test_an_empty_draw_is_one_batch_of_padding():
    (batch,) = physical_batches(np.zeros(0, np.int64), 4)
    assert batch.tolist() == [PADDING] * 4


@settings(max_examples=200, deadline=None)
@given(
    examples=st.integers(1, 80),
    rate=st.floats(0.0, 1.0),
    replica_size=st.integers(1, 9),
    replicas=st.integers(1, 5),
    workers_split=st.integers(0, 5),
    seed=st.integers(0, 2**32),
)
def test_every_drawn_example_goes_to_exactly_one_replica(
    examples, rate, replica_size, replicas, workers_split, seed
):
    sampler = PoissonSampler(examples, rate, Randomness.from_seed(seed))
    batching = Batching(sampler, replica_size * replicas, replicas)
    cut = min(workers_split, replicas)
    for step in range(3):
        dealt = [
            *batching.shares(step, step + 1, range(cut)),
            *batching.shares(step, step + 1, range(cut, replicas)),
        ]
        assert all(share.shape == (replica_size,) for share in dealt)
        assert len(dealt) == batching.count(step) * replicas
        rows = np.concatenate(dealt)
        assert sorted(rows[rows != PADDING]) == sorted(sampler.draw(step))


@settings(max_examples=100, deadline=None)
@given(examples=st.integers(1, 60), batch_size=st.integers(1, 60), seed=st.integers(0, 2**32))
def test_shuffled_epoch_visits_everyone_once(examples, batch_size, seed):
    sampler = ShuffledSampler(examples, batch_size, Randomness.from_seed(seed))
    for epoch in range(2):
        first = epoch * sampler.steps_per_epoch
        drawn = [sampler.draw(first + step) for step in range(sampler.steps_per_epoch)]
        assert sorted(np.concatenate(drawn)) == list(range(examples))
