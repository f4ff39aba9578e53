"""Every Keras optimizer by name, and the learning rates of every schedule."""

from __future__ import annotations

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from configs.schema import OptimizerSettings, SettingError
from tests.training.test_steps import draws, make_batch, make_model, make_step
from training.losses import cross_entropy
from training.optimizers import build_optimizer, build_schedule
from training.steps import PlainStep

# Those that wrap other optimizers are objects that a recipe cannot name.
NAMES = sorted(
    name
    for name, value in vars(keras.optimizers).items()
    if isinstance(value, type)
    and issubclass(value, keras.optimizers.Optimizer)
    and name not in ("Optimizer", "LossScaleOptimizer", "MultiOptimizer")
    # Keras 3.12's Muon asks a TensorFlow variable for its `path`, which only Keras' have.
    and not (name == "Muon" and keras.__version__.startswith("3.12."))
)


def test_the_usual_optimizers_are_among_those_tried():
    assert {"Adam", "AdamW", "SGD", "Lion", "RMSprop", "Adafactor"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_keras_optimizer_takes_the_step_that_keras_takes(name):
    settings = OptimizerSettings(name=name, learning_rate=0.01)
    ours, theirs, batch = make_model(), make_model(), make_batch(10)
    step = make_step(ours, optimizer=build_optimizer(settings, 10))
    theirs.compile(
        build_optimizer(settings, 10), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    # Built inside a graph, ScheduleFreeAdamW forgets where the weights started.
    theirs.optimizer.build(theirs.trainable_variables)
    start = ours.get_weights()
    for _ in range(2):
        step.finish(batch, draws(), accumulated=False)
        theirs.train_on_batch(batch["inputs"], batch["labels"])
    for mine, its, before in zip(ours.get_weights(), theirs.get_weights(), start, strict=True):
        np.testing.assert_allclose(mine, its, rtol=0, atol=1e-5)
        assert not np.array_equal(mine, before)


def test_options_reach_the_optimizer():
    settings = OptimizerSettings(
        name="SGD", options={"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}
    )
    optimizer = build_optimizer(settings, 10)
    assert (optimizer.momentum, optimizer.nesterov, optimizer.weight_decay) == (0.9, True, 0.1)


def test_finalize_replaces_weights_by_their_average_once():
    settings = OptimizerSettings(
        name="SGD", learning_rate=0.5, options={"use_ema": True, "ema_momentum": 0.5}
    )
    model, batch = make_model(), make_batch(10)
    step = make_step(model, optimizer=build_optimizer(settings, 10))
    average = None
    for _ in range(3):
        step.finish(batch, draws(), accumulated=False)
        now = model.get_weights()
        # Keras starts the average at the first weights it sees.
        average = (
            now
            if average is None
            else [0.5 * a + 0.5 * w for a, w in zip(average, now, strict=True)]
        )
    step.finalize()
    for found, expected in zip(model.get_weights(), average, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)


class OwnSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """Asks Python for the rate, which no compiled program can."""

    def __call__(self, step):
        return tf.ensure_shape(tf.numpy_function(lambda _: np.float32(0.5), [step], tf.float32), ())

    def get_config(self):
        return {}


class OwnConstraint(keras.constraints.Constraint):
    def __call__(self, w):
        clipped = tf.numpy_function(lambda x: np.clip(x, -1, 1), [w], tf.float32)
        return tf.ensure_shape(clipped, w.shape)


@pytest.mark.parametrize("private", [False, True])
def test_schedules_and_constraints_of_ones_own_take_any_operation(private):
    model = make_model()
    model.trainable_variables[0].constraint = OwnConstraint()
    step = make_step(model, private=private, optimizer=keras.optimizers.SGD(OwnSchedule()))
    before = model.get_weights()
    step.finish(make_batch(10), draws(), accumulated=False)
    assert not np.array_equal(model.get_weights()[0], before[0])
    plain = make_model()
    make_step(plain, private=private, optimizer=keras.optimizers.SGD(OwnSchedule())).finish(
        make_batch(10), draws(), accumulated=False
    )
    assert not np.array_equal(plain.get_weights()[0], make_model().get_weights()[0])


@pytest.mark.parametrize("name", ["Adamm", "Optimizer3", "schedules", "get"])
def test_unknown_optimizer_is_refused_by_name(name):
    with pytest.raises(SettingError, match=rf"training\.optimizer\.name: expected .*'{name}'"):
        build_optimizer(OptimizerSettings(name=name), 10)


def test_unknown_option_is_refused_by_name():
    with pytest.raises(SettingError, match=r"training\.optimizer\.options: .*'momentom': 0\.9"):
        build_optimizer(OptimizerSettings(name="SGD", options={"momentom": 0.9}), 10)


def rates(steps: int = 100, **settings) -> list[float]:
    schedule = build_schedule(OptimizerSettings(learning_rate=2.0, **settings), steps)
    if isinstance(schedule, float):
        return [schedule] * (steps + 1)
    return [float(schedule(step)) for step in range(steps + 1)]


def test_constant_rate_is_constant():
    assert set(rates(schedule="constant")) == {2.0}


def test_constant_rate_after_warmup_stays_at_the_peak():
    found = rates(schedule="constant", warmup_fraction=0.2)
    assert found[:21] == pytest.approx([2.0 * step / 20 for step in range(21)])
    assert found[20:] == pytest.approx([2.0] * 81)


def test_linear_rate_rises_then_falls_to_its_final_share():
    found = rates(schedule="linear", warmup_fraction=0.1, final_fraction=0.25)
    assert found[:11] == pytest.approx([2.0 * step / 10 for step in range(11)])
    falling = [2.0 - 1.5 * (step - 10) / 90 for step in range(10, 101)]
    assert found[10:] == pytest.approx(falling, rel=1e-5)


@pytest.mark.parametrize("warmup", [0, 20])
def test_cosine_rate_rises_then_falls_along_half_a_wave(warmup):
    found = rates(schedule="cosine", warmup_fraction=warmup / 100, final_fraction=0.1)
    assert found[:warmup] == pytest.approx([2.0 * step / warmup for step in range(warmup)])
    share = [(step - warmup) / (100 - warmup) for step in range(warmup, 101)]
    wave = [0.2 + 1.8 * 0.5 * (1 + math.cos(math.pi * s)) for s in share]
    assert found[warmup:] == pytest.approx(wave, rel=1e-4, abs=1e-6)


def test_schedule_survives_saving():
    schedule = build_schedule(OptimizerSettings(schedule="linear", warmup_fraction=0.1), 50)
    config = keras.optimizers.schedules.serialize(schedule)
    again = keras.optimizers.schedules.deserialize(config)
    assert [float(again(step)) for step in (0, 3, 30)] == [float(schedule(s)) for s in (0, 3, 30)]


def test_class_weight_of_no_label_is_refused():
    with pytest.raises(SettingError, match=r"training\.class_weights\.d: expected one of"):
        cross_entropy(("a", "b"), {"d": 2.0})


@pytest.mark.parametrize(
    "options",
    [{"gradient_accumulation_steps": 2}, {"use_ema": True, "ema_overwrite_frequency": 2}],
    ids=["accumulation", "overwriting"],
)
def test_what_keras_cannot_do_on_replicas_is_refused_by_name(options):
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    with strategy.scope():
        model = make_model()
        optimizer = build_optimizer(OptimizerSettings(name="SGD", options=options), 10)
    with pytest.raises(SettingError, match=rf"options\.{list(options)[-1]}: expected none, or"):
        PlainStep(model, cross_entropy(["0", "1", "2"]), optimizer, strategy, accumulates=False)
