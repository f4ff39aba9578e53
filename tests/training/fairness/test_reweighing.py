"""Reweighing: the published weights, and what a step does with them."""

from __future__ import annotations

from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from configs.schema import FairnessSettings, PenaltySettings, PrivacySettings, Recipe, SettingError
from training.fairness import GroupWeights
from training.losses import cross_entropy
from training.privacy.clipping import clipped_gradient_sum
from training.privacy.plan import PrivacyPlan
from training.randomness import Randomness
from training.steps import PlainStep, PrivateStep

LABELS = ("no", "yes")
COUNTS = {"men": {"no": 60.0, "yes": 40.0}, "women": {"no": 90.0, "yes": 10.0}}


def make_model() -> keras.Model:
    features = keras.Input((4,), name="features")
    initializer = keras.initializers.GlorotUniform(seed=1)
    return keras.Model(
        {"features": features}, keras.layers.Dense(2, kernel_initializer=initializer)(features)
    )


def make_batch(rows: int = 12) -> dict:
    rng = np.random.default_rng(0)
    return {
        "inputs": {"features": tf.constant(rng.normal(size=(rows, 4)), tf.float32)},
        "labels": tf.constant(rng.integers(0, 2, rows), tf.int32),
        "groups": {"sex": tf.constant(rng.integers(0, 2, rows), tf.int32)},
        "mask": tf.range(rows) < rows - 2,
    }


def public_weights() -> GroupWeights:
    return GroupWeights.from_public("sex", COUNTS, ("men", "women"), LABELS)


def test_weights_are_the_published_ones():
    # P(men) P(yes) / P(men, yes) = 0.5 * 0.25 / 0.2, and so on.
    expected = [[0.5 * 0.75 / 0.3, 0.5 * 0.25 / 0.2], [0.5 * 0.75 / 0.45, 0.5 * 0.25 / 0.05]]
    assert public_weights().table == pytest.approx(np.array(expected))


@settings(deadline=None, max_examples=50)
@given(
    arrays(np.int64, st.tuples(st.integers(2, 5), st.integers(2, 4)), elements=st.integers(1, 99))
)
def test_weighed_people_have_labels_independent_of_their_group(counts):
    weighed = counts * GroupWeights.from_counts("sex", counts).table
    joint = weighed / weighed.sum()
    independent = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    assert joint == pytest.approx(independent, abs=1e-6)
    assert weighed.sum() == pytest.approx(counts.sum(), rel=1e-5)


def test_weights_are_counted_from_examples():
    groups, labels = np.array([0, 0, 0, 1, 1]), np.array([0, 0, 1, 0, 0])
    found = GroupWeights.from_examples("sex", groups, labels, (2, 2)).table
    # Nobody of the second group has the second label: weight 1.
    assert found == pytest.approx(
        np.array([[0.6 * 0.8 / 0.4, 0.6 * 0.2 / 0.2], [0.4 * 0.8 / 0.4, 1.0]])
    )


def applied(model: keras.Model, take) -> list[np.ndarray]:
    before = model.get_weights()
    take()
    return [old - new for old, new in zip(before, model.get_weights(), strict=True)]


def arguments(model: keras.Model) -> tuple:
    return (
        model,
        cross_entropy(LABELS),
        keras.optimizers.SGD(1.0),
        tf.distribute.get_strategy(),
    )


def test_plain_step_weighs_each_example_by_group_and_label():
    model, batch = make_model(), make_batch()
    weights = public_weights().of(batch)
    with tf.GradientTape() as tape:
        losses = cross_entropy(LABELS)(batch["labels"], model(batch["inputs"])) * weights
        total = tf.reduce_sum(tf.where(batch["mask"], losses, 0.0)) / 10.0
    expected = tape.gradient(total, [v.value for v in model.trainable_variables])
    step = PlainStep(*arguments(model), accumulates=False, group_weights=public_weights())
    no_draws = step.draws(0, Randomness.from_seed(0))
    found = applied(model, lambda: step.finish(batch, no_draws, accumulated=False))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other.numpy(), atol=1e-6)


def test_weights_leave_the_sensitivity_of_a_private_step_as_it_was():
    # Weights of a hundred and more: without them inside the clipping, one person would move the
    # sum by as much.
    model, batch = make_model(), make_batch()
    weights = replace(public_weights(), table=100.0 * public_weights().table).of(batch)
    loss = cross_entropy(LABELS)

    def sums(mask: tf.Tensor) -> list[np.ndarray]:
        result = clipped_gradient_sum(
            model,
            lambda labels, logits: loss(labels, logits) * weights,
            {**batch, "mask": mask},
            0.5,
        )
        return [value.numpy() for value in result.gradients]

    whole = sums(batch["mask"])
    for absent in range(10):
        without = sums(batch["mask"] & (tf.range(12) != absent))
        moved = np.sqrt(sum(((a - b) ** 2).sum() for a, b in zip(whole, without, strict=True)))
        assert moved <= 0.5 * (1 + 1e-5)


def test_private_step_clips_the_weighted_loss():
    plan = PrivacyPlan.dp_sgd(
        num_examples=500,
        batch_size=20,
        steps=9,
        clipping_norm=0.3,
        noise_multiplier=1e-6,
        delta=1e-4,
    )
    batch = make_batch()

    def update(weights: GroupWeights | None) -> list[np.ndarray]:
        model = make_model()
        step = PrivateStep(*arguments(model), plan=plan, accumulates=False, group_weights=weights)
        draws = step.draws(0, Randomness.from_seed(0))
        return applied(model, lambda: step.finish(batch, draws, accumulated=False))

    weighed, equal = update(public_weights()), update(None)
    model, loss, weights = make_model(), cross_entropy(LABELS), public_weights().of(batch)
    expected = clipped_gradient_sum(
        model, lambda labels, logits: loss(labels, logits) * weights, batch, 0.3
    ).gradients
    for one, other, sum_ in zip(weighed, equal, expected, strict=True):
        np.testing.assert_allclose(one, sum_.numpy() / 20, atol=1e-6)
        assert np.abs(one - other).max() > 1e-4


PRIVATE = PrivacySettings(enabled=True, epsilon=3.0)


@pytest.mark.parametrize("measure", ["rate_gap", "mmd", "correlation"])
def test_penalty_with_privacy_is_refused_by_name(measure):
    fairness = FairnessSettings(attribute="sex", penalty=PenaltySettings(measure=measure))
    with pytest.raises(SettingError, match=rf"fairness.penalty.measure.*Received: '{measure}'"):
        Recipe(privacy=PRIVATE, fairness=fairness)
    Recipe(fairness=fairness)  # without privacy it is fine


def test_reweighing_by_training_counts_with_privacy_is_refused():
    with pytest.raises(SettingError, match=r"fairness.reweighing.*public_counts"):
        Recipe(privacy=PRIVATE, fairness=FairnessSettings(attribute="sex", reweighing=True))
    Recipe(
        privacy=PRIVATE,
        fairness=FairnessSettings(attribute="sex", reweighing=True, public_counts=COUNTS),
    )


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"reweighing": True}, "fairness.attribute"),
        ({"attribute": "sex", "public_counts": COUNTS}, "fairness.public_counts"),
        ({"focal_gamma": -1.0}, "fairness.focal_gamma"),
        ({"label_smoothing": 1.0}, "fairness.label_smoothing"),
    ],
)
def test_impossible_settings_name_themselves(values, key):
    with pytest.raises(SettingError) as caught:
        FairnessSettings(**values)
    assert str(caught.value).startswith(key)


def test_public_counts_must_name_every_group_and_label():
    with pytest.raises(SettingError, match=r"fairness.public_counts.other.no"):
        GroupWeights.from_public("sex", COUNTS, ("men", "women", "other"), LABELS)


def test_focal_loss_and_smoothing_are_their_formulas():
    labels = tf.constant([0, 1, 1], tf.int32)
    logits = tf.constant([[2.0, -1.0], [0.5, 0.0], [-30.0, 30.0]])
    log_p = tf.nn.log_softmax(logits).numpy().astype(np.float64)
    of_label = log_p[np.arange(3), labels.numpy()]
    focal = cross_entropy(LABELS, focal_gamma=2.0)(labels, logits).numpy()
    assert focal == pytest.approx((1 - np.exp(of_label)) ** 2 * -of_label, rel=1e-4, abs=1e-12)
    smooth = cross_entropy(LABELS, label_smoothing=0.2)(labels, logits).numpy()
    assert smooth == pytest.approx(-0.8 * of_label - 0.2 * log_p.mean(1), rel=1e-5)


def test_gradient_of_focal_loss_is_finite_where_the_model_is_certain():
    logits = tf.Variable([[200.0, -200.0]])
    with tf.GradientTape() as tape:
        loss = cross_entropy(LABELS, focal_gamma=0.5)(tf.constant([0]), logits)
    assert np.isfinite(tape.gradient(loss, logits).numpy()).all()
