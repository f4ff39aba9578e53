"""Whole sessions: lengths, stopping, freezing, callbacks, precision, what is refused in time."""

from __future__ import annotations

import json
from dataclasses import replace

import keras
import numpy as np
import pytest

from configs.schema import (
    CnnSettings,
    EvaluationSettings,
    MlpSettings,
    ModelSettings,
    OptimizerSettings,
    SettingError,
    TrainingSettings,
    UserError,
)
from evaluation.callbacks import PrivacyCallback
from tests.training.conftest import PRIVATE, assert_identical, weights_of
from training.drawing import physical_size
from training.length import run_length
from training.privacy.ledger import Ledger
from training.randomness import Randomness
from training.run_directory import RunDirectory
from training.session import open_session


def loop_of(session, tmp_path, callbacks=()):
    run = RunDirectory(tmp_path)
    ledger = None if session.plan is None else Ledger(run.ledger, session.plan)
    return session.loop(run, list(callbacks), ledger, verbose=0)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"epochs": 3.0, "batch_size": 30}, (12, 4, 3)),
        ({"epochs": 0.5, "batch_size": 30}, (2, 4, 1)),
        ({"epochs": 0.01, "batch_size": 30}, (1, 4, 1)),
        ({"steps": 9, "batch_size": 30}, (9, 4, 3)),
        ({"steps": 2, "batch_size": 100}, (2, 1, 2)),
    ],
)
def test_run_is_as_long_as_asked(settings, expected):
    length = run_length(TrainingSettings(**settings), 100)
    assert (length.steps, length.steps_per_epoch, length.epochs) == expected


def test_batch_larger_than_the_data_is_refused():
    with pytest.raises(SettingError, match=r"at most the 100 training examples. Received: 101"):
        run_length(TrainingSettings(epochs=1, batch_size=101), 100)


@pytest.mark.parametrize("replicas", [1, 2, 3])
@pytest.mark.parametrize("private", [False, True])
def test_physical_batches_divide_among_replicas(private, replicas):
    for batch_size in (1, 7, 64):
        size = physical_size(
            TrainingSettings(batch_size=batch_size),
            private=private,
            examples=1_000,
            replicas=replicas,
        )
        assert size % replicas == 0
        assert size >= batch_size


def test_most_poisson_draws_fit_one_physical_batch():
    size = physical_size(
        TrainingSettings(batch_size=100), private=True, examples=10_000, replicas=1
    )
    drawn = np.random.default_rng(0).binomial(10_000, 0.01, 10_000)
    assert (drawn <= size).mean() > 0.97


class Losses(keras.callbacks.Callback):
    """A validation loss that is given, and the weights at each epoch's end."""

    def __init__(self, losses):
        super().__init__()
        self.losses, self.weights = losses, []

    def on_epoch_end(self, epoch, logs=None):
        logs["val_loss"] = self.losses[epoch]
        self.weights.append(weights_of(self.model))


def test_early_stopping_ends_with_the_best_weights_in_the_last_checkpoint(recipe, tmp_path):
    settings = recipe(batch_size=150, steps=40)
    losses = Losses([3.0, 2.0, 1.0, 1.5, 1.6, 1.7])
    stopping = keras.callbacks.EarlyStopping("val_loss", patience=2, restore_best_weights=True)
    loop = loop_of(open_session(settings), tmp_path, [losses, stopping])
    assert loop.run() == 10  # five epochs of two steps
    assert_identical(weights_of(loop.model), losses.weights[2])
    again = open_session(settings)
    assert loop_of(again, tmp_path).run() == 10
    assert_identical(weights_of(again.model.built.model), losses.weights[2])


def test_learning_rate_callback_acts_on_the_optimizer(recipe, tmp_path):
    settings = recipe(batch_size=150, steps=8)
    plateau = keras.callbacks.ReduceLROnPlateau("val_loss", patience=1, factor=0.5)
    loop = loop_of(open_session(settings), tmp_path, [Losses([1.0, 2.0, 3.0, 0.5]), plateau])
    loop.run()
    assert float(loop.model.optimizer.learning_rate) == pytest.approx(0.01 * 0.25)


EXPLODING = OptimizerSettings(name="SGD", learning_rate=1e30)


def test_diverging_run_ends_with_a_clear_line_and_saves_no_broken_weights(recipe, tmp_path):
    with pytest.raises(UserError, match=r"no longer finite.*Lower training\.optimizer"):
        loop_of(open_session(recipe(optimizer=EXPLODING)), tmp_path).run()
    assert not list(tmp_path.rglob("step-*"))


def test_private_run_goes_on_when_no_example_counts_and_tells_the_operator(
    recipe, tmp_path, caplog
):
    loop = loop_of(open_session(recipe(PRIVATE)), tmp_path)
    variables = loop.model.trainable_variables
    for variable, value in zip(variables, (0.0, 1e30, 1e30, 0.0), strict=True):
        variable.assign(np.full(variable.shape, value))  # finite weights, infinite logits
    # Whether it ends must not depend on the examples.
    assert loop.run() == 10
    assert loop.ledger.releases == 10
    assert "No example of epoch 1 had a finite gradient" in caplog.text


def test_terminate_on_nan_stops_without_an_error(recipe, tmp_path):
    callback = keras.callbacks.TerminateOnNaN()
    loop = loop_of(open_session(recipe(optimizer=EXPLODING)), tmp_path, [callback])
    assert 1 <= loop.run() < 10


def test_progress_shows_epsilon_from_the_first_step(recipe, tmp_path):
    shown = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            shown.append(logs["epsilon"])

    session, run = open_session(recipe(PRIVATE, steps=16)), RunDirectory(tmp_path)
    ledger = Ledger(run.ledger, session.plan)
    budget = PrivacyCallback(lambda: (ledger.epsilon, session.plan.delta), run.logs)
    session.loop(run, [budget, Watch()], ledger, verbose=0).run()
    per_epoch = session.length.steps_per_epoch
    assert shown == [0.0] * per_epoch + [session.plan.epsilon(per_epoch)] * (16 - per_epoch)


def test_first_steps_lower_the_loss(recipe, tmp_path):
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append(logs["loss"])

    settings = recipe(
        steps=64, model=ModelSettings(name="mlp", mlp=MlpSettings([32], image_size=8))
    )
    loop_of(open_session(settings), tmp_path, [Watch()]).run()
    assert seen[-1] < 0.5 * seen[0]


def test_private_convolutional_run_steps_and_stays_finite(recipe, tmp_path):
    model = ModelSettings(name="cnn", cnn=CnnSettings(filters=[8], image_size=8))
    loop = loop_of(open_session(recipe(PRIVATE, model=model, steps=2)), tmp_path)
    before = weights_of(loop.model)
    assert loop.run() == 2
    after = weights_of(loop.model)
    assert all(np.isfinite(w).all() for w in after)
    assert any(not np.array_equal(a, b) for a, b in zip(after, before, strict=True))


def test_batch_normalization_is_refused_before_anything_is_written(recipe, tmp_path):
    session = open_session(recipe(PRIVATE, steps=2))
    inputs = session.model.trained.input
    (first,) = keras.tree.flatten(inputs)
    hidden = keras.layers.Reshape((-1,), name="flat")(first)
    hidden = keras.layers.BatchNormalization(name="mixing")(hidden)
    logits = keras.layers.Dense(10, name="last")(hidden)
    mixed = replace(session, model=replace(session.model, trained=keras.Model(inputs, logits)))
    with pytest.raises(UserError, match="mixing"):
        loop_of(mixed, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_mixed_precision_keeps_weights_and_sums_in_float32(recipe, tmp_path):
    loop = loop_of(open_session(recipe(PRIVATE, steps=2, precision="mixed_bfloat16")), tmp_path)
    assert loop.model.compute_dtype == "bfloat16"
    assert {v.dtype for v in loop.model.trainable_variables} == {"float32"}
    assert loop.run() == 2


def test_seed_decides_everything(recipe, tmp_path):
    results = []
    for i, seed in enumerate((1, 1, 2, None, None)):
        loop = loop_of(open_session(recipe(PRIVATE, steps=3, seed=seed)), tmp_path / str(i))
        (tmp_path / str(i)).mkdir()
        loop.run()
        results.append(weights_of(loop.model)[0])
    assert np.array_equal(results[0], results[1])
    for one, other in ((0, 2), (0, 3), (3, 4)):
        assert not np.array_equal(results[one], results[other])


def test_private_runs_that_differ_share_no_stream(recipe):
    one = open_session(recipe(PRIVATE, steps=3))
    other = open_session(recipe(PRIVATE, steps=3, optimizer=OptimizerSettings(learning_rate=0.02)))
    assert one.randomness.reproducible
    assert one.randomness.fingerprint != other.randomness.fingerprint
    spread = open_session(recipe(PRIVATE, steps=3, checkpoint_every=1))
    assert spread.randomness == one.randomness
    acted_on = open_session(recipe(PRIVATE, steps=3, callbacks={"ReduceLROnPlateau": {}}))
    assert acted_on.randomness.fingerprint != one.randomness.fingerprint
    # A constraint on groups would price another answer, under the same noise.
    favoured = replace(recipe(PRIVATE, steps=3), evaluation=EvaluationSettings(positive_label="0"))
    assert open_session(favoured).randomness.fingerprint != one.randomness.fingerprint


def test_private_runs_over_other_bytes_of_the_same_file_share_no_stream(recipe, monkeypatch):
    import data

    one = open_session(recipe(PRIVATE, steps=3))
    info = one.dataset.info
    edited = replace(info, provenance=replace(info.provenance, sha256={"people.csv": "0" * 64}))
    monkeypatch.setattr(data, "load", lambda settings: replace(one.dataset, info=edited))
    other = open_session(recipe(PRIVATE, steps=3))
    assert other.randomness.fingerprint != one.randomness.fingerprint


def test_private_runs_from_other_weights_under_the_same_name_share_no_stream(recipe, monkeypatch):
    import models

    roots = []
    for sha in ("0" * 64, "0" * 64, "1" * 64):
        monkeypatch.undo()
        build = models.build

        def of_these_weights(*arguments, build=build, sha=sha, **further):
            return replace(build(*arguments, **further), origin={"sha256": sha})

        monkeypatch.setattr(models, "build", of_these_weights)
        roots.append(open_session(recipe(PRIVATE, steps=3)).randomness.fingerprint)
    assert roots[0] == roots[1] != roots[2]


def test_checkpoint_of_a_whole_epoch_holds_no_sums_over_training_examples(recipe, tmp_path):
    session = open_session(recipe(PRIVATE, steps=10, checkpoint_every=3, keep_checkpoints=9))
    loop_of(session, tmp_path).run()
    held = {}
    for position in tmp_path.rglob("position.json"):
        document = json.loads(position.read_text())
        held[document["step"]] = bool(document["epoch_totals"])
    per_epoch = session.length.steps_per_epoch
    assert 3 < per_epoch < 10
    assert held[3]
    assert not held[per_epoch]
    assert not held[10]


def test_loop_runs_once(recipe, tmp_path):
    loop = loop_of(open_session(recipe(steps=1)), tmp_path)
    assert loop.run() == loop.steps_taken == 1
    with pytest.raises(RuntimeError, match="runs once"):
        loop.run()


def test_roots_are_told_apart_without_being_given_away():
    one, two = Randomness.from_seed(None), Randomness.from_seed(None)
    assert one.fingerprint != two.fingerprint
    assert str(one.root) not in one.fingerprint
    assert Randomness.from_seed(5).fingerprint == Randomness.from_seed(5).fingerprint


def test_validation_compiles_the_model_once_a_run(recipe, tmp_path):
    from data import batches_in_order
    from evaluation import predict_batches
    from evaluation.predict import inference

    session = open_session(recipe())
    batches = batches_in_order(session.validation, 16)
    for _ in range(3):
        predict_batches(session.model.trained, batches, session.dataset.info, "validation")
    compiled = inference(session.model.trained)
    assert compiled is inference(session.model.trained)
    assert compiled.experimental_get_tracing_count() == 1
