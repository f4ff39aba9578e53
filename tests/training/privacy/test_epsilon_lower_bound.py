"""End to end: what the real step releases carries the planned noise, and hides one record.

An attack on many real runs gives a lower bound on epsilon: it must stay below the claim, and must
rise above it where only half of the planned noise is added, or this test could not fail.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from training.privacy.clipping import clipped_gradient_sum
from training.privacy.plan import PrivacyPlan
from training.privacy.users import UserRows
from training.randomness import Randomness
from training.steps import PrivateStep

STEPS, RUNS = 2, 1_000
CLIPPING_NORM = 0.7
PLAN = PrivacyPlan.dp_sgd(
    num_examples=4,
    batch_size=3,
    steps=STEPS,
    clipping_norm=CLIPPING_NORM,
    noise_multiplier=4 / 3,
    delta=0.01,
)
# The neighbour is told by one example whose gradient is far beyond the bound; the others', and
# that of the example put in its place, vanish. No dataset could be easier to attack.
WITH_CANARY, WITHOUT = np.array([0.0, 0.0, 50.0, 0.0]), np.zeros(4)


def pull(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """A loss whose gradient with respect to the one weight is minus the input, wherever it is."""
    return -tf.reduce_sum(logits, axis=-1)


class Trainer:
    """A one-weight model under the real step, at such a rate that a step moves it by the sum.

    Args:
        plan: What is drawn.
        width, outputs: Of the one layer.
        users: Whose each training example is, where the plan's unit is a user.
        bounded_by: The plan under which the step bounds and adds noise; none is `plan`.
    """

    def __init__(
        self,
        plan: PrivacyPlan,
        width: int = 1,
        outputs: int = 1,
        users: UserRows | None = None,
        bounded_by: PrivacyPlan | None = None,
    ):
        x = keras.Input((width,))
        layer = keras.layers.Dense(outputs, use_bias=False, kernel_initializer="zeros")
        self.model = keras.Model(x, layer(x))
        self.plan, self.kernel, self.users = plan, layer.kernel, users
        self.step = PrivateStep(
            self.model,
            pull,
            keras.optimizers.SGD(float(plan.batch_size)),
            tf.distribute.get_strategy(),
            plan=bounded_by or plan,
            accumulates=False,
        )

        self._many = tf.function(self._take, autograph=False)

    def releases(self, inputs: np.ndarray, roots: list[tuple[Randomness, int]]) -> np.ndarray:
        """How far each step moves the weights, one after another inside one graph.

        Args:
            inputs: All training examples (n, width), of which each step takes what is drawn.
            roots: For each step the randomness and the number that it is planned under.

        Returns:
            (steps, width, outputs).
        """
        size = self.plan.num_examples * self.plan.rows_per_record
        rows = np.zeros((len(roots), size, inputs.shape[1]), np.float32)
        mask = np.zeros((len(roots), size), bool)
        draws = []
        for i, (randomness, number) in enumerate(roots):
            drawn = self.plan.sampler(randomness, self.users).draw(number)
            rows[i, : len(drawn)], mask[i, : len(drawn)] = inputs[drawn], drawn >= 0
            draws.append(self.step.draws(number, randomness))
        return self._many(
            tf.constant(rows),
            tf.constant(mask),
            tf.constant(np.stack([d.seeds for d in draws])),
            tf.constant(np.stack([d.coefficients for d in draws])),
        ).numpy()

    def _take(
        self, rows: tf.Tensor, mask: tf.Tensor, seeds: tf.Tensor, coefficients: tf.Tensor
    ) -> tf.Tensor:
        labels = tf.zeros(rows.shape[1], tf.int32)

        def one(i: tf.Tensor, moves: tf.TensorArray) -> tuple[tf.Tensor, tf.TensorArray]:
            self.kernel.assign(tf.zeros(self.kernel.shape))
            batch = {"inputs": rows[i], "labels": labels, "mask": mask[i]}
            # What `finish` runs, without its way through Python, which takes most of its time.
            self.step._finish_alone(batch, (seeds[i], coefficients[i], tf.constant(0)))
            return i + 1, moves.write(i, tf.convert_to_tensor(self.kernel.value))

        count = rows.shape[0]
        moves = tf.TensorArray(tf.float32, count)
        _, moves = tf.while_loop(lambda i, _: i < count, one, (0, moves), parallel_iterations=1)
        return moves.stack()


def runs(plan: PrivacyPlan, examples: np.ndarray, seed: int, **further: Any) -> np.ndarray:
    """The releases of many runs, in units of the clipping norm, (runs, steps)."""
    roots = [Randomness.from_seed(seed * RUNS + run) for run in range(RUNS)]
    numbered = [(root, step) for root in roots for step in range(STEPS)]
    moves = Trainer(plan, **further).releases(examples[:, None], numbered)
    return moves.reshape(RUNS, STEPS) / CLIPPING_NORM


def guess(moves: np.ndarray, plan: PrivacyPlan, noise_multiplier: float) -> np.ndarray:
    """Log-likelihood ratio of the canary's being there: the best that an attacker can do."""
    q = plan.batch_size / plan.num_examples
    return np.log1p(q * np.expm1((2 * moves - 1) / (2 * noise_multiplier**2))).sum(axis=1)


def lower_bound(present: np.ndarray, absent: np.ndarray, delta: float) -> float:
    """Epsilon that guesses (runs,) refute below, at 95 % confidence (Clopper & Pearson 1934).

    From Kairouz et al. 2015: P(guessed | present) <= exp(epsilon) P(guessed | absent) + delta.
    The threshold is chosen on one half of the runs and judged on the other.
    """

    def refuted(threshold: float, part: slice) -> float:
        n = len(present[part])
        hits, false_alarms = (present[part] > threshold).sum(), (absent[part] > threshold).sum()
        lowest = stats.beta.ppf(0.025, hits, n - hits + 1) if hits else 0.0
        highest = stats.beta.ppf(0.975, false_alarms + 1, n - false_alarms)
        return float(np.log(max(lowest - delta, 1e-9) / highest))

    half = len(present) // 2
    choosing, judging = slice(0, half), slice(half, None)
    candidates = np.quantile(np.concatenate([present, absent]), np.linspace(0.02, 0.98, 49))
    best = max(candidates, key=lambda threshold: refuted(threshold, choosing))
    return refuted(best, judging)


@pytest.fixture(scope="module")
def bounds() -> dict[float, float]:
    """Share of the planned noise that is added -> lower bound on epsilon."""
    found = {}
    for share in (1.0, 0.5):
        real = PLAN.with_noise(PLAN.noise_multiplier * share)
        present, absent = (
            guess(runs(real, examples, seed), PLAN, real.noise_multiplier)
            for seed, examples in enumerate((WITH_CANARY, WITHOUT), start=1)
        )
        found[share] = lower_bound(present, absent, PLAN.delta)
    return found


def test_no_attack_on_real_runs_refutes_the_claimed_epsilon(bounds) -> None:
    claimed = PLAN.epsilon(STEPS)
    assert claimed == pytest.approx(1.97, abs=0.05)
    assert 0.3 < bounds[1.0] < claimed  # an attack that learns nothing would prove nothing


def test_same_attack_refutes_the_claim_when_half_of_the_noise_is_added(bounds) -> None:
    assert bounds[0.5] > PLAN.epsilon(STEPS)


# A user with more rows than a step reads, each of them far beyond the bound; three with others.
ROWS = UserRows(np.repeat([0, 1, 2, 3], [2, 1, 5, 3]))
WITH_USER = np.where(ROWS.users == 2, 50.0, 0.0)
OF_USERS = replace(PLAN, rows_per_record=3, unit="user")


@pytest.fixture(scope="module")
def bounds_of_users() -> dict[str, float]:
    """What is bounded -> lower bound on the epsilon of a user."""
    found = {}
    for bounded, step_plan in (("users", OF_USERS), ("their examples", PLAN)):
        present, absent = (
            guess(
                runs(OF_USERS, examples, seed, users=ROWS, bounded_by=step_plan),
                PLAN,
                PLAN.noise_multiplier,
            )
            for seed, examples in enumerate((WITH_USER, 0 * WITH_USER), start=3)
        )
        found[bounded] = lower_bound(present, absent, PLAN.delta)
    return found


def test_no_attack_on_a_user_with_many_rows_refutes_the_claimed_epsilon(bounds_of_users) -> None:
    assert 0.3 < bounds_of_users["users"] < OF_USERS.epsilon(STEPS)


def test_same_attack_refutes_the_claim_when_only_single_examples_are_bounded(
    bounds_of_users,
) -> None:
    assert bounds_of_users["their examples"] > OF_USERS.epsilon(STEPS)


def test_what_the_step_adds_to_the_sum_is_the_planned_gaussian() -> None:
    plan = PrivacyPlan.dp_sgd(
        num_examples=8,
        batch_size=5,
        steps=30,
        clipping_norm=CLIPPING_NORM,
        noise_multiplier=1.5,
        delta=0.01,
    )
    width, outputs = 50, 40
    trainer = Trainer(plan, width, outputs)
    generator = np.random.default_rng(8)
    randomness = Randomness.from_seed(21)
    examples = generator.normal(size=(plan.num_examples, width)).astype("float32")
    # The weights move against the released gradient.
    released = -trainer.releases(examples, [(randomness, n) for n in range(plan.steps)])

    @tf.function(autograph=False)
    def clipped(mask: tf.Tensor) -> tf.Tensor:
        batch = {
            "inputs": tf.constant(examples),
            "labels": tf.zeros(plan.num_examples, tf.int32),
            "mask": mask,
        }
        return clipped_gradient_sum(trainer.model, pull, batch, plan.clipping_norm).gradients[0]

    noise = np.empty((plan.steps, width * outputs))
    for number in range(plan.steps):
        drawn = plan.sampler(randomness).draw(number)
        total = clipped(tf.constant(np.isin(np.arange(plan.num_examples), drawn)))
        noise[number] = (released[number] - total.numpy()).ravel()
    stddev = plan.noise_multiplier * plan.clipping_norm
    # 60,000 draws: standard errors of deviation, mean and correlation 0.3, 0.4 and 0.4 %.
    assert noise.std() == pytest.approx(stddev, rel=0.012)
    assert noise.mean() == pytest.approx(0.0, abs=0.016 * stddev)
    assert stats.kstest(noise.ravel(), stats.norm(0, stddev).cdf).pvalue > 1e-3
    for one, other in (
        (noise[1:], noise[:-1]),  # steps
        (noise[:, 1:], noise[:, :-1]),  # coordinates
        (noise[:, outputs:], noise[:, :-outputs]),  # coordinates of one input
    ):
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.016
    # Every step and every coordinate has the same variance: standard errors 2.2 % and 13 %.
    assert np.abs(noise.std(axis=1) / stddev - 1).max() < 0.08
    assert np.abs(noise.std(axis=0) / stddev - 1).max() < 0.6
