"""The twelve pitfalls of JAX-Privacy's page, one test each, named after it.

The page: google-deepmind/jax_privacy, docs/sharp_edges_dp_training_pitfalls.md. How each is closed
here stands in docs/privacy.md; these tests run what would go wrong if it were not.
"""

from __future__ import annotations

import inspect
import json
from typing import Any

import dp_accounting
import keras
import numpy as np
import pytest
import tensorflow as tf
from dp_accounting import pld

from configs.schema import PrivacySettings, UserError
from tests.training.privacy.naive import cross_entropy
from training.privacy import (
    Ledger,
    PrivacyPlan,
    clipped_gradient_sum,
    make_private,
    private_dataset,
    probe,
)
from training.privacy.keras_api.requests import refuse_callbacks
from training.privacy.sampling import PoissonSampling
from training.randomness import Randomness
from training.steps import PrivateStep

L = keras.layers
ROWS, WIDTH, CLASSES = 8, 40, 50
SILENT = 1e-7  # a noise multiplier at which a step shows its sum


def plan_of(clipping_norm: float = 0.5, noise_multiplier: float = SILENT) -> PrivacyPlan:
    return PrivacyPlan.dp_sgd(
        num_examples=100,
        batch_size=20,
        steps=10,
        clipping_norm=clipping_norm,
        noise_multiplier=noise_multiplier,
        delta=1e-3,
    )


class Stepper:
    """A linear model under the real step at rate one: a step moves it by what is released."""

    def __init__(self, plan: PrivacyPlan):
        x = keras.Input((WIDTH,))
        self.layer = L.Dense(CLASSES, use_bias=False, kernel_initializer="zeros")
        self.model = keras.Model(x, self.layer(x))
        self.step = PrivateStep(
            self.model,
            cross_entropy,
            keras.optimizers.SGD(1.0),
            tf.distribute.get_strategy(),
            plan=plan,
            accumulates=True,
        )

    def move(self, *batches: dict[str, Any], number: int = 0) -> np.ndarray:
        """The gradient that one logical batch of physical ones releases; weights start at zero."""
        self.layer.kernel.assign(tf.zeros((WIDTH, CLASSES)))
        for batch in batches[:-1]:
            self.step.add(batch)
        draws = self.step.draws(number, Randomness.from_seed(3))
        self.step.finish(batches[-1], draws, accumulated=len(batches) > 1)
        return -self.layer.kernel.numpy()


def batch_of(inputs: np.ndarray, real: int | None = None) -> dict[str, Any]:
    """A physical batch of `ROWS` rows, of which the first `real` are examples."""
    rows = np.zeros((ROWS, WIDTH), np.float32)
    rows[: len(inputs)] = inputs
    return {
        "inputs": tf.constant(rows),
        "labels": tf.constant(np.arange(ROWS) % 3, tf.int32),
        "mask": tf.constant(np.arange(ROWS) < (len(inputs) if real is None else real)),
    }


EXAMPLES = np.random.default_rng(0).normal(size=(ROWS, WIDTH)).astype("float32")


@pytest.fixture(scope="module")
def silent() -> Stepper:
    return Stepper(plan_of())


@pytest.fixture(scope="module")
def noisy() -> Stepper:
    return Stepper(plan_of(noise_multiplier=1.5))


def test_division_by_batch_size(silent, noisy) -> None:
    # One example adds the same, however many others were drawn ...
    with_others = silent.move(batch_of(EXAMPLES)) - silent.move(batch_of(EXAMPLES[:7]))
    alone = Stepper(plan_of()).move(
        {**batch_of(EXAMPLES), "mask": tf.constant(np.arange(ROWS) == 7)}
    )
    np.testing.assert_allclose(with_others, alone, atol=1e-7)
    # ... namely its clipped gradient, by the planned 20, not by the one or eight drawn ...
    assert np.linalg.norm(alone) == pytest.approx(0.5 / 20, rel=1e-5)
    # ... and the noise is of one size, too. 2,000 draws: standard error 1.6 %.
    for real in (0, ROWS):
        batch = batch_of(EXAMPLES, real)
        noise = noisy.move(batch) - silent.move(batch)
        assert noise.std() == pytest.approx(1.5 * 0.5 / 20, rel=0.06)


@pytest.mark.parametrize("clipping_norm", [0.05, 3.0])
def test_sensitivity_alignment(clipping_norm) -> None:
    """The noise is the multiplier times what one example was seen to be able to change."""
    empty, huge = batch_of(EXAMPLES, 0), batch_of(1e4 * EXAMPLES, 1)
    still = Stepper(plan_of(clipping_norm))
    sensitivity = np.linalg.norm(still.move(huge) - still.move(empty))
    noise = Stepper(plan_of(clipping_norm, 1.5)).move(empty)
    assert noise.std() / sensitivity == pytest.approx(1.5, rel=0.06)
    # Nothing but the plan can set either.
    assert not {"clipping_norm", "noise_multiplier", "stddev", "batch_size"} & set(
        inspect.signature(PrivateStep.__init__).parameters
    )


def test_accounting_and_batch_selection_mismatch() -> None:
    plan = plan_of(noise_multiplier=1.0)
    sampler = plan.sampler(Randomness.from_seed(0))
    drawn = [sampler.draw(step) for step in range(400)]
    event = plan.event(plan.steps)
    assert event.count == plan.steps
    rate = event.event.sampling_probability
    counts = np.bincount(np.concatenate(drawn), minlength=100)
    spread = np.sqrt(400 * rate * (1 - rate))
    assert np.abs(counts - 400 * rate).max() < 5 * spread
    assert np.std([len(d) for d in drawn]) == pytest.approx(
        np.sqrt(100 * rate * (1 - rate)), rel=0.15
    )
    # Batches made otherwise do not get in.
    x, y = np.zeros((100, 3)), np.zeros(100, int)
    for made in (tf.data.Dataset.from_tensor_slices((x, y)).batch(20), iter([(x, y)])):
        with pytest.raises(UserError, match=r"epsilon"):
            private_dataset(plan, made)
    with pytest.raises(UserError, match="plan is for 100 training examples, and there are 99"):
        private_dataset(plan, x[:99], y[:99])


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> list[tuple[Any, str]]:
    """The same small run over two datasets that share nothing but their size; and its ledger."""
    found = []
    for number in range(2):
        generator = np.random.default_rng(number)
        x, y = generator.normal(number, size=(100, 3)), generator.integers(0, 2, 100)
        path = tmp_path_factory.mktemp("run") / "ledger.jsonl"
        model = keras.Sequential([keras.Input((3,)), L.Dense(2)])
        private = make_private(model, plan_of(noise_multiplier=1.0), ledger=path)
        private.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        private.fit(x, y, epochs=1, verbose=0)
        found.append((private, path.read_text()))
    return found


def test_public_vs_private_metadata(trained) -> None:
    (one, first), (other, second) = trained
    # What is written down and published does not know the data, nor how many were drawn.
    assert one.privacy_spent() == other.privacy_spent()
    headers = [text.splitlines()[0] for text in (first, second)]
    releases = [text.splitlines()[1:] for text in (first, second)]
    assert headers[0] == headers[1]
    assert len(releases[0]) == len(releases[1]) == one.releases == 5
    for line in (*releases[0], *releases[1]):
        assert set(json.loads(line)) == {"release", "randomness", "check"}
    assert "which records form the training split and their number" in one.privacy_spent().statement


def test_neighboring_relation_clarity(silent) -> None:
    plan = plan_of(noise_multiplier=1.0)
    assert "adding or removing one training example" in plan.statement(1, reproducible=False)
    # That is the relation under which the accountant is asked ...
    relation = dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE
    accountant = pld.PLDAccountant(relation, value_discretization_interval=1e-3)
    expected = accountant.compose(plan.event(plan.steps)).get_epsilon(plan.delta)
    assert plan.epsilon(plan.steps) == pytest.approx(expected, rel=1e-3)
    # ... and under which one clipping norm is the sensitivity; replacing would take two.
    example, opposite = 1e4 * EXAMPLES[:1], -1e4 * EXAMPLES[:1]
    added, replaced, empty = (
        silent.move(batch_of(rows, len(rows))) * plan.batch_size
        for rows in (example, opposite, example[:0])
    )
    assert np.linalg.norm(added - empty) == pytest.approx(plan.clipping_norm, rel=1e-5)
    assert np.linalg.norm(added - replaced) == pytest.approx(2 * plan.clipping_norm, rel=1e-3)


def test_zero_sized_batches_and_non_finite_gradients(silent, noisy) -> None:
    # A step over nobody is a step like any other: it releases noise.
    assert noisy.move(batch_of(EXAMPLES, 0)).std() > 0
    nobody = PoissonSampling(100, 1).sampler(Randomness.from_seed(0))
    assert min(len(nobody.draw(step)) for step in range(50)) == 0
    # Whatever an example holds, the others' release is the very same as without it.
    without = silent.move({**batch_of(EXAMPLES), "mask": tf.constant(np.arange(ROWS) != 4)})
    for value in (np.nan, np.inf, -np.inf, 3e38):
        broken = EXAMPLES.copy()
        broken[4] = value
        np.testing.assert_allclose(silent.move(batch_of(broken)), without, atol=1e-8)


def test_gradient_accumulation(noisy) -> None:
    """One release for a logical batch, however it is cut: same sum, noise once."""
    at_once = noisy.move(batch_of(EXAMPLES))
    parts = [
        {**batch_of(EXAMPLES), "mask": tf.constant(np.arange(ROWS) // 3 == part)}
        for part in range(3)
    ]
    np.testing.assert_allclose(noisy.move(*parts), at_once, atol=1e-7)
    # Another step's noise is another.
    other = noisy.move(batch_of(EXAMPLES), number=1)
    assert np.abs(other - at_once).max() > 0.05


class Centred(keras.layers.Layer):
    """Mixes examples behind shapes that look innocent."""

    def call(self, inputs: Any) -> Any:
        return inputs - tf.reduce_mean(inputs, axis=0, keepdims=True)


def test_cross_example_operations_incl_batch_normalization_and_moe_routing() -> None:
    x = keras.Input((WIDTH,))
    normalized = keras.Model(x, L.Dense(3)(L.BatchNormalization(name="batch_norm")(x)))
    with pytest.raises(UserError, match=r"'batch_norm' .*mixes the examples.*[Gg]roup"):
        clipped_gradient_sum(normalized, cross_entropy, batch_of(EXAMPLES), 1.0)
    with pytest.raises(UserError, match=r"'centred' makes.*other examples of its batch"):
        probe(keras.Model(x, L.Dense(3)(Centred()(x))), cross_entropy, batch_of(EXAMPLES))

    def coupled(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        return cross_entropy(labels, logits - tf.reduce_mean(logits, axis=0))

    with pytest.raises(UserError, match=r"loss makes.*other examples of its batch"):
        probe(keras.Model(x, L.Dense(3)(x)), coupled, batch_of(EXAMPLES))


def test_auxiliary_information(trained) -> None:
    """Losses and metrics of training examples are bare: nothing may act on them, words say so."""
    for callback in (
        keras.callbacks.EarlyStopping("loss"),
        keras.callbacks.ReduceLROnPlateau("accuracy"),
        keras.callbacks.TerminateOnNaN(),
    ):
        with pytest.raises(UserError, match="measurement of training examples"):
            refuse_callbacks([callback])
    refuse_callbacks([keras.callbacks.EarlyStopping("val_loss"), keras.callbacks.History()])
    assert "measurements of training examples" in trained[0][0].privacy_spent().statement


def test_randomness_and_rng_injection() -> None:
    plan, one, other = (
        plan_of(noise_multiplier=1.0),
        Randomness.from_seed(None),
        Randomness.from_seed(None),
    )
    assert one.root.bit_length() > 64
    assert one.root != other.root
    # No stream twice: over steps, variables, purposes and runs.
    seeds = [
        tuple(seed)
        for root in (one, other)
        for step in range(50)
        for seed in plan.draws(step, root, 3).seeds.reshape(-1, 2)
    ]
    assert len(set(seeds)) == len(seeds) == 300
    # A seed is said aloud, because whoever knows it can subtract the noise.
    assert "can subtract the noise" in plan.statement(1, reproducible=True)
    assert "can subtract the noise" not in plan.statement(1, reproducible=False)


def test_floating_point_robustness() -> None:
    """Not closed: the noise is floating point. Every statement says so, none can leave it out."""
    for reproducible in (False, True):
        statement = plan_of(noise_multiplier=1.0).statement(3, reproducible=reproducible)
        assert "not proof against least-significant-bit attacks (Mironov 2012)" in statement


def test_finite_precision_numerical_error(silent) -> None:
    # Clipping: a hair above the bound at most, whatever the scale of the gradient.
    for scale in (1.0, 1e3, 1e6, 1e15):
        moved = silent.move(batch_of(np.float32(scale) * EXAMPLES[:1])) * 20
        assert np.linalg.norm(moved.astype(np.float64)) <= 0.5 * (1 + 1e-5)
    # Calibration: never above what was asked for.
    settings = PrivacySettings(enabled=True, epsilon=2.0, delta=1e-5)
    plan = PrivacyPlan.from_settings(settings, num_examples=1_000, batch_size=50, steps=20)
    assert 0.99 * 2.0 < plan.epsilon(20) <= 2.0
    # Accounting: coarser buckets only ever overstate.
    finer = pld.PLDAccountant(value_discretization_interval=1e-4).compose(plan.event(20))
    assert finer.get_epsilon(1e-5) <= plan.epsilon(20)


def test_ledger_counts_what_the_pitfalls_above_released(trained) -> None:
    private, _ = trained[0]
    ledger = private._budget._ledger
    assert isinstance(ledger, Ledger)
    assert ledger.epsilon == private.privacy_spent().epsilon > 0
