"""Users: drawn as planned, at most k rows of each, kept whole, and bounded with all they have."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from configs.schema import PrivacySettings, SettingError, UserError
from data.contracts import PADDING
from tests.training.privacy.naive import (
    clipped_sum,
    cross_entropy,
    per_example_gradients,
    relative_error,
)
from training.batching import Batching, physical_batches
from training.privacy.clip_methods import PerLayerClipping
from training.privacy.clipping import clipped_gradient_sum
from training.privacy.events import EVENTS
from training.privacy.mechanisms import GaussianMechanism
from training.privacy.plan import PrivacyPlan
from training.privacy.sampling import (
    BallsInBinsSampling,
    CyclicPoissonSampling,
    FixedSizeSampling,
    PoissonSampling,
    ShuffledSampling,
    TruncatedPoissonSampling,
)
from training.privacy.users import UserRows, random_subsets
from training.randomness import Randomness

L = keras.layers
K = 3
COUNTS = np.array([1, 2, 3, 5, 9, 40] * 5)
# A user's rows lie anywhere, and users have any numbers.
USERS = np.random.default_rng(1).permutation(np.repeat(7 * np.arange(len(COUNTS)) + 4, COUNTS))
ROOT = Randomness.from_seed(11)
SIZES: dict[str, Any] = {
    "batch_size": 6,
    "steps": 50,
    "clipping_norm": 0.3,
    "noise_multiplier": 1.0,
    "delta": 1e-3,
}
PLAN = PrivacyPlan.user_level_dp_sgd(num_users=len(COUNTS), examples_per_user=K, **SIZES)
OF_EXAMPLES = PrivacyPlan.dp_sgd(num_examples=len(COUNTS), **SIZES)


def records(drawn: np.ndarray, rows: int = K) -> np.ndarray:
    return drawn.reshape(-1, rows)


def owner(record: np.ndarray) -> int:
    (user,) = set(USERS[record[record != PADDING]])
    return (user - 4) // 7


def test_user_gives_all_of_its_rows_or_k_different_ones() -> None:
    sampler = PLAN.sampler(ROOT, UserRows(USERS))
    seen = set()
    for step in range(40):
        drawn = sampler.draw(step)
        assert drawn.dtype == np.int64
        owners = [owner(record) for record in records(drawn)]
        assert len(set(owners)) == len(owners)
        for user, record in zip(owners, records(drawn), strict=True):
            real = record[record != PADDING]
            assert len(set(real)) == len(real) == min(K, COUNTS[user])
        seen.update(owners)
    assert seen == set(range(len(COUNTS)))


def test_users_are_those_that_the_sampling_draws() -> None:
    rows, users = PLAN.sampler(ROOT, UserRows(USERS)), PLAN.sampling.sampler(ROOT)
    for step in range(20):
        assert [owner(record) for record in records(rows.draw(step))] == users.draw(step).tolist()


def test_each_user_is_drawn_with_the_planned_probability_however_many_rows_it_has() -> None:
    steps = 3_000
    sampler = PLAN.sampler(ROOT, UserRows(USERS))
    times = np.zeros(len(COUNTS))
    for step in range(steps):
        times[[owner(record) for record in records(sampler.draw(step))]] += 1
    probability = PLAN.batch_size / len(COUNTS)
    worst = min(stats.binomtest(int(t), steps, probability).pvalue for t in times)
    assert worst > 1e-4 / len(COUNTS)
    assert PLAN.event(steps) == OF_EXAMPLES.event(steps)  # what it is accounted for


def test_every_subset_of_a_users_rows_is_equally_likely() -> None:
    generator = ROOT.generator("subsets", 0)
    chosen = np.sort(random_subsets(generator, np.full(6_000, 5), K), axis=1)
    _, times = np.unique(chosen, axis=0, return_counts=True)
    assert len(times) == 10
    assert stats.chisquare(times).pvalue > 1e-3


def test_choice_among_a_users_rows_does_not_depend_on_another_user() -> None:
    """Neither on what the other has nor on what was chosen of it: the proof rests on that."""
    for others in (4, 500):
        generator = ROOT.generator("two users", others)
        sizes = np.tile([others, 3], 6_000)
        chosen = random_subsets(generator, sizes, 1).reshape(-1, 2)
        table = np.histogram2d(chosen[:, 0] % 4, chosen[:, 1], bins=(4, 3))[0]
        assert stats.chi2_contingency(table).pvalue > 1e-3
        assert stats.chisquare(table.sum(axis=0)).pvalue > 1e-3


def test_step_repeats_its_draw_and_the_next_chooses_anew() -> None:
    everyone = replace(PLAN, sampling=FixedSizeSampling(len(COUNTS), len(COUNTS)), neighbours=None)
    sampler = everyone.sampler(ROOT, UserRows(USERS))
    np.testing.assert_array_equal(sampler.draw(3), sampler.draw(3))
    large = int(np.argmax(COUNTS))

    def rows_of_large(step: int) -> set[int]:
        return next({*r} for r in records(sampler.draw(step)) if owner(r) == large)

    assert len(set().union(*(rows_of_large(step) for step in range(8)))) > K


@given(
    users=st.integers(0, 40),
    rows=st.integers(1, 5),
    replicas=st.integers(1, 4),
    records_each=st.integers(1, 5),
)
def test_batches_and_replicas_keep_users_whole(users, rows, replicas, records_each) -> None:
    drawn = np.arange(users * rows).reshape(users, rows)
    drawn[:, rows // 2 + 1 :] = PADDING  # users with fewer rows
    size = rows * replicas * records_each

    class Drawn:
        def draw(self, step: int) -> np.ndarray:
            return drawn.ravel()

    batching = Batching(Drawn(), size, replicas, rows)
    shares = list(batching.shares(0, 1, range(replicas)))
    assert len(shares) == replicas * batching.count(0)
    assert all(share.shape == (size // replicas,) for share in shares)
    found = np.concatenate([share.reshape(-1, rows) for share in shares])
    found = found[(found != PADDING).any(axis=1)]
    assert sorted(map(tuple, found)) == sorted(map(tuple, drawn))


def test_batch_that_would_part_a_user_is_refused() -> None:
    with pytest.raises(ValueError, match=r"whole records of 3 rows\. Received: 15 rows"):
        Batching(PLAN.sampler(ROOT, UserRows(USERS)), 15, 2, 3)


@pytest.mark.parametrize(
    ("plan", "users", "message"),
    [
        (PLAN, None, "users: expected the user of every training example"),
        (OF_EXAMPLES, UserRows(USERS), "users: expected none, because the plan protects single"),
        (PLAN, UserRows(USERS[USERS != 4]), "for 30 users, and the training examples are of 29"),
    ],
)
def test_plan_draws_no_rows_for_users_it_was_not_made_for(plan, users, message) -> None:
    with pytest.raises(UserError, match=message):
        plan.sampler(ROOT, users)


SAMPLINGS = (
    PoissonSampling(120, 12),
    TruncatedPoissonSampling(120, 12, 24),
    FixedSizeSampling(120, 12),
    BallsInBinsSampling(120, 12),
    ShuffledSampling(120, 12),
    CyclicPoissonSampling(120, 12, 4),
)


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=lambda sampling: sampling.method)
def test_n_users_cost_what_n_examples_cost_and_are_called_users(sampling) -> None:
    parts = {"steps": 20, "delta": 1e-3}
    mechanism, clipping = GaussianMechanism(1.5), PerLayerClipping(0.3)
    for neighbours in EVENTS[type(sampling), GaussianMechanism]:
        plan = PrivacyPlan(sampling, clipping, mechanism, neighbours=neighbours, **parts)
        by_user = replace(plan, rows_per_record=4, unit="user")
        assert by_user.event(20) == plan.event(20)
        assert by_user.noise_stddev == plan.noise_stddev
        assert PrivacyPlan.from_dict(by_user.to_dict()) == by_user
        assert by_user.fingerprint != plan.fingerprint
        assert by_user.to_dict()["sampling"]["num_users"] == 120
        assert "num_examples" not in by_user.to_dict()["sampling"]
    said = by_user.statement(20, reproducible=False)
    assert "one user with all of their training examples" in said
    assert "at most 4 examples, chosen at random anew" in said
    assert "per-user gradients" in said
    assert "people who appear in more than one example" not in said
    for words in (by_user.sampling.describe("user"), by_user.clipping.describe("user")):
        assert words in said
        assert "example" not in words


def test_noise_is_calibrated_for_the_number_of_users_alone() -> None:
    sizes = {"num_examples": 500, "batch_size": 50, "steps": 40}
    asked = PrivacySettings(enabled=True, epsilon=3.0, accountant="rdp")
    plan = PrivacyPlan.from_settings(replace(asked, unit="user", examples_per_user=8), **sizes)
    same = PrivacyPlan.from_settings(asked, **sizes)
    assert plan.noise_multiplier == same.noise_multiplier
    assert plan.epsilon(40) == same.epsilon(40)
    assert plan.delta == same.delta < 1 / 500
    assert (plan.unit, plan.rows_per_record) == ("user", 8)
    one = replace(plan, rows_per_record=1)
    assert "one user with all of their training examples" in one.statement(40, reproducible=False)


def test_rows_of_a_record_are_a_users_or_versions_of_an_example() -> None:
    assert replace(OF_EXAMPLES, rows_per_record=3).augmented
    assert not PLAN.augmented
    with pytest.raises(SettingError, match=r"privacy\.examples_per_user: expected a whole number"):
        replace(OF_EXAMPLES, rows_per_record=0)
    with pytest.raises(SettingError, match="at most the 30 training users"):
        PrivacyPlan.user_level_dp_sgd(
            num_users=30, examples_per_user=3, **{**SIZES, "batch_size": 31}
        )


def model() -> keras.Model:
    keras.utils.set_random_seed(5)
    x = keras.Input((4, 5))
    y = L.LayerNormalization()(L.Dense(6, activation="gelu")(x))
    return keras.Model(x, L.Dense(3)(L.Flatten()(y)))


INPUTS = np.random.default_rng(4).normal(size=(len(USERS), 4, 5)).astype("float32")
LABELS = np.random.default_rng(5).integers(0, 3, len(USERS))


def engine_sum(
    net: keras.Model, inputs: np.ndarray, drawn: np.ndarray, physical: int
) -> list[np.ndarray]:
    """The clipped sum over the rows drawn, in physical batches."""
    totals = [np.zeros(v.shape) for v in net.trainable_variables]
    for rows in physical_batches(drawn, physical):
        batch = {"inputs": inputs[rows], "labels": LABELS[rows], "mask": rows != PADDING}
        found = clipped_gradient_sum(
            net,
            cross_entropy,
            tf.nest.map_structure(tf.constant, batch),
            PLAN.clipping_norm,
            rows_per_record=K,
        )
        totals = [t + g.numpy() for t, g in zip(totals, found.gradients, strict=True)]
    return totals


@pytest.mark.parametrize("physical", [4 * K, 30 * K])
def test_sum_is_that_of_the_naive_loop_over_the_users_drawn(physical) -> None:
    net, sampler = model(), PLAN.sampler(ROOT, UserRows(USERS))
    gradients = per_example_gradients(net, {"inputs": tf.constant(INPUTS), "labels": LABELS})
    for step in range(3):
        drawn = sampler.draw(step)
        people = [
            [sum(gradients[row][v] for row in record if row != PADDING) / K for v in range(len(w))]
            for record in records(drawn)
            for w in [net.trainable_variables]
        ]
        expected, norms = clipped_sum(people, np.ones(len(people), bool), PLAN.clipping_norm)
        assert (norms > PLAN.clipping_norm).any()
        assert relative_error(engine_sum(net, INPUTS, drawn, physical), expected) <= 1e-5


def test_user_with_all_of_its_rows_moves_the_sum_by_no_more_than_the_bound() -> None:
    """Over neighbours: the draw without the user is the draw with it, less its rows."""
    net, sampler = model(), PLAN.sampler(ROOT, UserRows(USERS))
    distances = []

    @settings(max_examples=15, derandomize=True, deadline=None, database=None)
    @given(
        step=st.integers(0, 200),
        which=st.integers(0, 100),
        scale=st.sampled_from([0.0, 1e-6, 1.0, 1e3, 1e6, np.inf, np.nan]),
    )
    def holds(step: int, which: int, scale: float) -> None:
        drawn = records(sampler.draw(step))
        if not len(drawn):
            return
        gone = which % len(drawn)
        inputs = INPUTS.copy()
        with np.errstate(invalid="ignore"):
            inputs[7 * owner(drawn[gone]) + 4 == USERS] *= np.float32(scale)
        total = engine_sum(net, inputs, drawn.ravel(), 4 * K)
        without = engine_sum(net, inputs, np.delete(drawn, gone, axis=0).ravel(), 4 * K)
        moved = np.concatenate([(a - b).ravel() for a, b in zip(total, without, strict=True)])
        assert np.isfinite(moved).all()
        distances.append(np.linalg.norm(moved))

    holds()
    assert max(distances) <= PLAN.clipping_norm * (1 + 1e-5)
    assert max(distances) > 0.99 * PLAN.clipping_norm  # and it can be taken up
