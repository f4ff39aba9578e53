"""The inner step: what is applied to the weights, plain and private."""

from __future__ import annotations

from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf

from training.losses import cross_entropy
from training.privacy.clip_methods import AdaptiveClipping
from training.privacy.clipping import clipped_gradient_sum
from training.privacy.mechanisms import Draws, GaussianMechanism
from training.privacy.noise import all_with_noise, gaussian_noise
from training.privacy.plan import PrivacyPlan
from training.privacy.sampling import PoissonSampling
from training.randomness import Randomness
from training.steps import PlainStep, PrivateStep

WIDTH, CLASSES = 5, 3
LABELS = ("a", "b", "c")
PLAN = PrivacyPlan.dp_sgd(
    num_examples=500, batch_size=20, steps=9, clipping_norm=0.3, noise_multiplier=1.5, delta=1e-4
)
SEEDS = Randomness.from_seed(0)


def make_model(regularizer=None) -> keras.Model:
    inputs = {"features": keras.Input((WIDTH,), name="features")}
    initializer = keras.initializers.GlorotUniform(seed=1)
    hidden = keras.layers.Dense(
        4,
        activation="tanh",
        kernel_initializer=initializer,
        kernel_regularizer=regularizer,
    )(inputs["features"])
    logits = keras.layers.Dense(CLASSES, kernel_initializer=initializer)(hidden)
    return keras.Model(inputs, logits)


def make_batch(rows: int, real: int | None = None, seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    return {
        "inputs": {"features": tf.constant(rng.normal(size=(rows, WIDTH)), tf.float32)},
        "labels": tf.constant(rng.integers(0, CLASSES, rows), tf.int32),
        "mask": tf.range(rows) < (rows if real is None else real),
    }


def rows_of(batch: dict, start: int, stop: int) -> dict:
    return tf.nest.map_structure(lambda value: value[start:stop], batch)


def make_step(model, private=False, optimizer=None, class_weights=None, plan=PLAN, **options):
    options = {"accumulates": True, **options}
    arguments = (
        model,
        cross_entropy(LABELS, class_weights),
        optimizer or keras.optimizers.SGD(1.0),
        tf.distribute.get_strategy(),
    )
    return (
        PrivateStep(*arguments, plan=plan, **options)
        if private
        else PlainStep(*arguments, **options)
    )


def draws(step: int = 0, tensors: int = 4) -> Draws:
    return PLAN.draws(step, SEEDS, tensors)


def applied(model: keras.Model, take) -> list[np.ndarray]:
    """The gradient that `take` applied, given that the optimizer is SGD with rate 1."""
    before = model.get_weights()
    take()
    return [old - new for old, new in zip(before, model.get_weights(), strict=True)]


def planned_noise(model: keras.Model, step: int = 0) -> list[np.ndarray]:
    query = PLAN.query()
    zeros = [tf.zeros(v.shape) for v in model.trainable_variables]
    state = query.seeded_global_state(draws(step).seeds, draws(step).coefficients)
    return [noise.numpy() for noise in query.get_noised_result(zeros, state)[0]]


def assert_close(found, expected, tolerance=1e-6):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance)


@pytest.mark.parametrize("drawn", [3, 12])
def test_private_step_divides_by_the_expected_batch_size(drawn):
    model, batch = make_model(), make_batch(12, real=drawn)
    sums = clipped_gradient_sum(model, cross_entropy(LABELS), batch, PLAN.clipping_norm).gradients
    step = make_step(model, private=True)
    found = applied(model, lambda: step.finish(batch, draws(), accumulated=False))
    expected = [
        (total.numpy() + noise) / PLAN.batch_size
        for total, noise in zip(sums, planned_noise(model), strict=True)
    ]
    assert_close(found, expected)


def test_empty_draw_still_releases_noise():
    model, batch = make_model(), make_batch(8, real=0)
    step = make_step(model, private=True)
    found = applied(model, lambda: step.finish(batch, draws(), accumulated=False))
    assert_close(found, [noise / PLAN.batch_size for noise in planned_noise(model)])


def test_empty_draw_moves_nothing_without_privacy():
    model, batch = make_model(), make_batch(8, real=0)
    step = make_step(model)
    found = applied(model, lambda: step.finish(batch, draws(), accumulated=False))
    assert_close(found, [np.zeros_like(value) for value in found], tolerance=0)


@pytest.mark.parametrize("private", [False, True], ids=["plain", "private"])
def test_accumulated_physical_batches_equal_one_large_batch(private):
    batch = make_batch(18, real=16)
    large, small = make_model(), make_model()
    expected = applied(
        large,
        lambda: make_step(large, private).finish(batch, draws(), accumulated=False),
    )
    step = make_step(small, private)

    def take():
        step.add(rows_of(batch, 0, 6))
        step.add(rows_of(batch, 6, 12))
        step.finish(rows_of(batch, 12, 18), draws(), accumulated=True)

    assert_close(applied(small, take), expected)
    # What was accumulated is gone: the next logical batch starts from nothing.
    again = applied(small, take)
    small.set_weights([w + g for w, g in zip(small.get_weights(), again, strict=True)])
    assert_close(applied(small, take), again)


@pytest.mark.parametrize("class_weights", [None, {"b": 3.0, "c": 0.5}])
def test_plain_step_is_that_of_keras(class_weights):
    ours, theirs, batch = make_model(), make_model(), make_batch(10)
    theirs.compile(
        keras.optimizers.Adam(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    step = make_step(ours, optimizer=keras.optimizers.Adam(0.01), class_weights=class_weights)
    for _ in range(3):
        totals = step.finish(batch, draws(), accumulated=False)
        by_index = class_weights and {0: 1.0, 1: 3.0, 2: 0.5}
        theirs.reset_metrics()  # Keras 3.12 reports the mean over all calls
        loss = theirs.train_on_batch(batch["inputs"], batch["labels"], class_weight=by_index)
        if class_weights is None:
            assert totals.loss / totals.examples == pytest.approx(float(loss), rel=1e-5)
    assert_close(ours.get_weights(), theirs.get_weights(), tolerance=1e-5)


@pytest.mark.parametrize("private", [False, True], ids=["plain", "private"])
def test_penalties_are_added_after_the_release_and_see_no_example(private):
    batch = make_batch(10)
    free, penalized = make_model(), make_model(keras.regularizers.L2(0.03))
    alone = applied(
        free, lambda: make_step(free, private).finish(batch, draws(), accumulated=False)
    )
    kernels = penalized.get_weights()
    step = make_step(penalized, private, l2=0.1)
    both = applied(penalized, lambda: step.finish(batch, draws(), accumulated=False))
    difference = [two - one for one, two in zip(alone, both, strict=True)]
    expected = [
        2 * (0.1 + 0.03) * kernels[0],
        np.zeros_like(kernels[1]),
        2 * 0.1 * kernels[2],
        np.zeros_like(kernels[3]),
    ]
    assert_close(difference, expected)


def test_totals_count_real_examples_only():
    model, batch = make_model(), make_batch(10, real=4)
    logits = model(batch["inputs"]).numpy()[:4]
    totals = make_step(model).finish(batch, draws(), accumulated=False)
    labels = batch["labels"].numpy()[:4]
    assert totals.examples == 4
    assert totals.correct == (logits.argmax(axis=1) == labels).sum()
    chances = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(4), labels]
    assert totals.loss == pytest.approx(chances.sum(), rel=1e-5)


def test_example_with_a_broken_gradient_is_left_out_and_counted():
    model, batch = make_model(), make_batch(6)
    features = batch["inputs"]["features"].numpy()
    features[2] = np.nan
    batch["inputs"]["features"] = tf.constant(features)
    rest = tf.nest.map_structure(lambda value: tf.gather(value, [0, 1, 3, 4, 5]), batch)
    other = make_model()
    expected = applied(
        other, lambda: make_step(other, True).finish(rest, draws(), accumulated=False)
    )
    totals = []
    step = make_step(model, private=True)
    found = applied(model, lambda: totals.append(step.finish(batch, draws(), accumulated=False)))
    assert totals[0].non_finite == 1
    assert_close(found, expected)


def test_frozen_layers_stay_as_they_are():
    model, batch = make_model(), make_batch(6)
    model.layers[1].trainable = False
    before = model.layers[1].get_weights()
    for private in (False, True):
        make_step(model, private).finish(batch, draws(tensors=2), accumulated=False)
    assert_close(model.layers[1].get_weights(), before, tolerance=0)


def test_tracing_ahead_saves_the_first_step_its_trace():
    model, batch = make_model(), make_batch(6)
    step = make_step(model, private=True)
    step.trace(tf.nest.map_structure(tf.TensorSpec.from_tensor, batch))
    assert step._finish_alone.experimental_get_tracing_count() == 1
    step.finish(batch, draws(), accumulated=False)
    assert step._finish_alone.experimental_get_tracing_count() == 1


def test_step_compiled_with_xla_is_the_same_step():
    batch = make_batch(8)
    ours, compiled = make_model(), make_model()
    for model, jit in ((ours, False), (compiled, True)):
        make_step(model, jit_compile=jit).finish(batch, draws(), accumulated=False)
    assert_close(compiled.get_weights(), ours.get_weights(), tolerance=1e-6)


ADAPTIVE = PrivacyPlan(
    PoissonSampling(500, 20),
    AdaptiveClipping(0.3, target_quantile=0.6, count_share=0.2),
    GaussianMechanism(0.5),
    steps=9,
    delta=1e-4,
)


def adaptive_draws(step: int = 0) -> Draws:
    return ADAPTIVE.draws(step, SEEDS, 5)


def next_bound(norms: np.ndarray, bound: float, step: int) -> float:
    """As Andrew et al. have it: C exp(-rate (b - quantile)), b the noisy share within C."""
    seed = tf.constant(adaptive_draws(step).seeds[0, -1])
    stddev = tf.constant(ADAPTIVE.clipping.count_stddev(0.5, 20), tf.float32)
    noise = float(gaussian_noise(tf.TensorShape([]), stddev, seed))
    within = (np.where(norms <= bound, 0.5, -0.5).sum() + noise) / 20 + 0.5
    return bound * np.exp(-0.2 * (np.clip(within, 0, 1) - 0.6))


def test_adaptive_step_moves_its_bound_by_a_noisy_count_over_the_whole_logical_batch():
    large, small, batch = make_model(), make_model(), make_batch(18, real=16)
    alone = make_step(large, private=True, plan=ADAPTIVE)
    step = make_step(small, private=True, plan=ADAPTIVE)
    (bound,) = step.state
    expected = 0.3
    for number in range(3):
        norms = clipped_gradient_sum(large, cross_entropy(LABELS), batch, 1.0).norms.numpy()[:16]
        expected = next_bound(norms, expected, number)
        alone.finish(batch, adaptive_draws(number), accumulated=False)
        step.add(rows_of(batch, 0, 6))
        step.add(rows_of(batch, 6, 12))
        assert float(bound) != pytest.approx(expected, rel=1e-5)  # not before the release
        step.finish(rows_of(batch, 12, 18), adaptive_draws(number), accumulated=True)
        assert float(bound) == pytest.approx(expected, rel=1e-5)
        assert float(alone.state[0]) == float(bound)
    assert step.released() == {"clipping_norm": float(bound)}
    assert_close(small.get_weights(), large.get_weights())


def test_adaptive_step_clips_and_adds_noise_at_the_bound_in_use():
    model, batch = make_model(), make_batch(12)
    step = make_step(model, private=True, plan=ADAPTIVE)
    step.state[0].assign(0.05)
    sums = clipped_gradient_sum(model, cross_entropy(LABELS), batch, 0.05).gradients
    stddev = 0.05 * ADAPTIVE.clipping.sum_noise_multiplier(0.5, 20)
    seeds = tf.constant(adaptive_draws().seeds[:, :-1])  # the last is the count's
    noised = all_with_noise(sums, tf.constant([stddev], tf.float32), seeds)
    found = applied(model, lambda: step.finish(batch, adaptive_draws(), accumulated=False))
    assert_close(found, [value.numpy() / 20 for value in noised])


def test_step_whose_bound_stays_has_no_state():
    step = make_step(make_model(), private=True)
    assert step.state == []
    assert step.released() == {}


def test_step_bounds_the_rows_of_a_record_together():
    plan = replace(PLAN, rows_per_record=3, unit="user")
    model, batch = make_model(), make_batch(12, real=11)
    sums = clipped_gradient_sum(
        model, cross_entropy(LABELS), batch, PLAN.clipping_norm, rows_per_record=3
    ).gradients
    step = make_step(model, private=True, plan=plan)
    totals = []
    found = applied(model, lambda: totals.append(step.finish(batch, draws(), accumulated=False)))
    expected = [
        (total.numpy() + noise) / plan.batch_size
        for total, noise in zip(sums, planned_noise(model), strict=True)
    ]
    assert_close(found, expected)
    assert totals[0].examples == 11
