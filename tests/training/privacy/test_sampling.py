"""Ways of sampling: each draws exactly what it is accounted for, at any size of the data."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from training.batching import PADDING, Batching, ShuffledSampler, physical_batches
from training.permutation import EXACT_SIZE, Permutation
from training.privacy.sampling import (
    BallsInBinsSampling,
    CyclicPoissonSampling,
    FixedSizeSampling,
    PoissonSampler,
    PoissonSampling,
    ShuffledSampling,
    TruncatedPoissonSampling,
)
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


ROOT = Randomness.from_seed(0)


def test_drawing_a_size_and_a_subset_is_drawing_each_example():
    """Every subset of four examples as often as independent draws give it."""
    sampler, steps = PoissonSampler(4, 0.3, ROOT), 4_000
    seen = np.zeros(16)
    for step in range(steps):
        seen[int((1 << sampler.draw(step)).sum())] += 1
    sizes = np.array([bin(subset).count("1") for subset in range(16)])
    expected = steps * 0.3**sizes * 0.7 ** (4 - sizes)
    assert stats.chisquare(seen, expected).pvalue > 1e-3


def test_poisson_draws_come_in_random_order():
    sampler = PoissonSampler(1_000, 0.1, ROOT)
    rising = [np.mean(np.diff(sampler.draw(step)) > 0) for step in range(20)]
    assert np.mean(rising) == pytest.approx(0.5, abs=0.05)  # standard error below 0.01


BILLION = [
    PoissonSampling(10**9, 500),
    TruncatedPoissonSampling(10**9, 500, 640),
    FixedSizeSampling(10**9, 500),
    BallsInBinsSampling(10**9, 10_000),
    ShuffledSampling(10**9, 500),
    CyclicPoissonSampling(10**9, 500, 16),
]


@pytest.mark.parametrize("sampling", BILLION, ids=lambda s: s.method)
def test_a_billion_examples_are_never_written_out(sampling):
    sampler = sampling.sampler(ROOT)
    tracemalloc.start()
    drawn = sampler.draw(12_345)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 20e6  # the indices alone would be eight gigabytes
    assert abs(len(drawn) - sampling.batch_size) < 6 * sampling.batch_size**0.5
    assert len(set(drawn.tolist())) == len(drawn)
    assert drawn.min() >= 0
    assert drawn.max() < 10**9
    assert np.array_equal(drawn, sampling.sampler(ROOT).draw(12_345))


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 5_000), number=st.integers(0, 5))
def test_feistel_order_is_a_permutation(size, number):
    order = Permutation(size, ROOT, "test", number)
    assert sorted(order.walked(np.arange(size))) == list(range(size))


def test_feistel_order_passes_for_random():
    size = 20_000
    order = Permutation(size, ROOT, "test", 0).walked(np.arange(size))
    assert stats.kstest(order[:2_000] / size, "uniform").pvalue > 1e-3
    assert abs(stats.spearmanr(order, np.arange(size)).statistic) < 5 / size**0.5
    assert abs(stats.spearmanr(order[1:], order[:-1]).statistic) < 5 / size**0.5
    again = Permutation(size, ROOT, "test", 1).walked(np.arange(size))
    assert (order == again).sum() < 10  # one is expected


def test_large_sets_take_the_same_order_piece_by_piece():
    order = Permutation(EXACT_SIZE + 1, ROOT, "test", 0)
    assert np.array_equal(order.take(100, 200), order.at(np.arange(200))[100:])


def test_truncation_keeps_a_random_subset_of_the_poisson_draw():
    sampling = TruncatedPoissonSampling(60, 20, 22)
    kept = np.zeros(60)
    for step in range(3_000):
        drawn = sampling.sampler(ROOT).draw(step)
        whole = PoissonSampler(60, 1 / 3, ROOT).draw(step)
        assert len(drawn) == min(22, len(whole))
        assert set(drawn) <= set(whole)
        kept[drawn] += 1
    assert stats.chisquare(kept).pvalue > 1e-3


def test_truncation_room_defaults_to_six_standard_deviations():
    from configs.schema import SamplingSettings

    made = TruncatedPoissonSampling.from_settings(
        SamplingSettings("truncated_poisson"), 60_000, 256
    )
    assert made.max_batch == made.capacity == 360
    assert made.crowding < 1e-9


def test_fixed_size_draws_every_subset_alike():
    sampler, seen = FixedSizeSampling(5, 2).sampler(ROOT), np.zeros(32)
    for step in range(3_000):
        seen[int((1 << sampler.draw(step)).sum())] += 1
    assert np.count_nonzero(seen) == 10
    assert stats.chisquare(seen[seen > 0]).pvalue > 1e-3


def test_balls_in_bins_throws_each_example_into_one_step_uniformly_and_independently():
    sampling = BallsInBinsSampling(12, 4)
    sampler, bins = sampling.sampler(ROOT), sampling.period
    assert bins == 3
    place = np.empty((2_000, 12), int)
    for epoch in range(len(place)):
        drawn = [sampler.draw(epoch * bins + step) for step in range(bins)]
        assert sorted(np.concatenate(drawn)) == list(range(12))
        for step, examples in enumerate(drawn):
            place[epoch, examples] = step
    pairs = np.bincount(place[:, 0] * bins + place[:, 7], minlength=9)
    assert stats.chisquare(pairs).pvalue > 1e-3
    successive = np.bincount(place[1:, 3] * bins + place[:-1, 3], minlength=9)
    assert stats.chisquare(successive).pvalue > 1e-3
    sizes = np.bincount((place == 0).sum(axis=1), minlength=13)[1:8]
    expected = stats.binom.pmf(np.arange(1, 8), 12, 1 / 3)
    assert stats.chisquare(sizes, expected / expected.sum() * sizes.sum()).pvalue > 1e-3


def test_cyclic_groups_are_public_disjoint_and_drawn_at_their_rate():
    sampling = CyclicPoissonSampling(90, 10, 3)
    groups = [set() for _ in range(3)]
    counts = np.zeros(90)
    for root in (ROOT, Randomness.from_seed(1)):
        for step in range(900):
            drawn = sampling.sampler(root).draw(step)
            groups[step % 3].update(drawn.tolist())
            counts[drawn] += 1
    assert sorted(map(len, groups)) == [30, 30, 30]
    assert len(set.union(*groups)) == 90
    # 600 steps of one's group at probability 1/3.
    assert np.abs(counts - 200).max() < 5 * np.sqrt(600 * (1 / 3) * (2 / 3))


@pytest.mark.parametrize("sampling", BILLION, ids=lambda s: s.method)
def test_no_batch_is_larger_than_the_capacity(sampling):
    if sampling.capacity is not None:
        sizes = [len(sampling.sampler(ROOT).draw(step)) for step in range(20)]
        assert max(sizes) <= sampling.capacity
