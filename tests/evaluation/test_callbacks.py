import math
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2
from tensorboard.util import tensor_util

from configs.schema import EvaluationSettings
from evaluation.callbacks import FairnessCallback, PrivacyCallback
from evaluation.coverage import marked_logs
from evaluation.epoch_pages import write_training_scalars
from tests.evaluation.conftest import from_answers

# One process fits the model.
pytestmark = pytest.mark.xdist_group("callbacks")

EPOCHS = 2
SETTINGS = EvaluationSettings(bootstrap_resamples=20, permutations=0)


@pytest.fixture(scope="module")
def fit(tmp_path_factory):
    """A user's own model.fit with both callbacks; returns (history, events, callback)."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    features = rng.normal(size=(400, 4)).astype(np.float32)
    labels = (features[:, 0] > 0).astype(np.int32)
    sex = np.where(rng.uniform(size=400) < 0.5, "F", "M")
    log_dir = tmp_path_factory.mktemp("logs")
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    model.compile(
        "adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"]
    )
    fairness = FairnessCallback.from_arrays(
        model,
        features,
        labels,
        {"sex": sex},
        log_dir=log_dir,
        label_names=["no", "yes"],
        settings=SETTINGS,
        recipe_text="model:\n  name: mlp",
        hparams={"learning rate": 0.1, "layers": [3, 4], "private": True},
    )
    # At the start of training, then at the end of each epoch.
    releases = iter([(0.0, 1e-5), (0.5, 1e-5), (0.8, 1e-5)])
    privacy = PrivacyCallback(lambda: next(releases), log_dir)
    history = model.fit(
        features, labels, epochs=EPOCHS, verbose=0, callbacks=[fairness, privacy]
    ).history
    events = EventAccumulator(str(log_dir), size_guidance={"tensors": 0, "images": 0})
    events.Reload()
    return history, events, fairness


def _scalars(events, tag):
    return [tensor_util.make_ndarray(event.tensor_proto).item() for event in events.Tensors(tag)]


def test_the_overview_answers_how_accurate_how_unfair_to_whom_at_which_epsilon(fit):
    _, events, _ = fit
    overview = sorted(tag for tag in events.Tags()["tensors"] if tag.startswith("1 overview/"))
    assert overview == [
        "1 overview/1 accuracy",
        "1 overview/2 who gets what",
        "1 overview/3 largest selection gap",
        "1 overview/4 epsilon",
    ]


def test_scalars_are_those_of_the_logs_epoch_by_epoch(fit):
    history, events, _ = fit
    assert _scalars(events, "1 overview/4 epsilon") == pytest.approx([0.5, 0.8])
    for tag, key in (
        ("1 overview/1 accuracy", "val_accuracy"),
        ("2 accuracy/loss", "val_loss"),
        ("1 overview/3 largest selection gap", "val_demographic_parity_difference"),
    ):
        assert _scalars(events, tag) == pytest.approx(history[key], rel=1e-5)
        assert [event.step for event in events.Tensors(tag)] == [1, 2]


def test_the_last_evaluation_is_kept(fit):
    history, _, fairness = fit
    assert fairness.evaluation.performance["accuracy"] == history["val_accuracy"][-1]
    assert fairness.evaluation.split == "validation"


def test_training_scalars_are_marked_as_not_covered(fit):
    history, events, _ = fit
    tags = [tag for tag in events.Tags()["tensors"] if tag.startswith("5 training/")]
    assert sorted(tags) == [
        "5 training/accuracy (train, not covered by ε)",
        "5 training/loss (train, not covered by ε)",
    ]
    found = _scalars(events, "5 training/loss (train, not covered by ε)")
    assert found == pytest.approx(history["loss"], rel=1e-5)


def test_pictures_recipe_and_hparams_are_there(fit):
    _, events, _ = fit
    for tag in (
        "1 overview/2 who gets what",
        "2 accuracy/confusion matrix",
        "2 accuracy/reliability",
        "3 fairness/1 rates by sex",
        "3 fairness/2 gaps over epochs by sex",
        "3 fairness/3 groups over epochs by sex",
        "3 fairness/9 ROC and calibration by sex",
        "3 fairness/9 scores by sex",
        "3 fairness/9 thresholds by sex",
    ):
        width, height, png = events.Tensors(tag)[-1].tensor_proto.string_val
        assert png.startswith(b"\x89PNG")
        assert int(width) > int(height) > 100
    (recipe,) = events.Tensors("recipe")
    assert recipe.tensor_proto.string_val[0] == b"```yaml\nmodel:\n  name: mlp\n```"
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    started = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info
    assert started.hparams["learning rate"].number_value == 0.1
    assert started.hparams["layers"].string_value == "[3, 4]"
    assert started.hparams["private"].bool_value is True


def test_one_event_file_serves_both_callbacks(fit):
    _, events, _ = fit
    assert len(list(Path(events.path).glob("events.out.tfevents.*"))) == 1


def test_early_stopping_can_act_on_a_gap(tmp_path):
    answers = iter([[0, 1, 0, 1], [0, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]])

    def predict():
        return from_answers([0, 1, 0, 1], next(answers), [0, 0, 1, 1], split="validation")

    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    chosen = EvaluationSettings(minimum_group_size=1, bootstrap_resamples=0, permutations=0)
    stop = keras.callbacks.EarlyStopping("val_demographic_parity_difference", mode="min")
    history = model.fit(
        np.ones((4, 1)),
        np.ones((4, 1)),
        epochs=4,
        verbose=0,
        callbacks=[FairnessCallback(predict, tmp_path, chosen), stop],
    ).history
    assert history["val_demographic_parity_difference"] == [0.0, 0.5]


def test_an_undefined_gap_is_nan_in_the_logs_and_absent_from_tensorboard(tmp_path):
    callback = FairnessCallback(
        lambda: from_answers([0, 1], [0, 1], [0, 0]), tmp_path, EvaluationSettings()
    )
    callback.on_train_begin()
    logs = {}
    callback.on_epoch_end(0, logs)
    assert math.isnan(logs["test_demographic_parity_difference"])
    events = EventAccumulator(str(tmp_path)).Reload()
    tags = events.Tags()["tensors"]
    assert "1 overview/1 accuracy" in tags
    assert "1 overview/3 largest selection gap" not in tags


def test_measurements_of_training_examples_are_marked_everywhere(tmp_path, predict):
    callback = FairnessCallback(lambda: predict(100, split="train"), tmp_path, SETTINGS)
    callback.on_train_begin()
    callback.on_epoch_end(0, {})
    events = EventAccumulator(str(tmp_path)).Reload()
    assert all("(train, not covered by ε)" in tag for tag in events.Tags()["tensors"])


def test_logs_of_groups_are_marked_unless_they_come_from_noisy_releases(tmp_path):
    with tf.summary.create_file_writer(str(tmp_path)).as_default(step=1):
        write_training_scalars({"multiplier: F": 0.25, "released multiplier: F": 0.5})
    events = EventAccumulator(str(tmp_path), size_guidance={"tensors": 0})
    events.Reload()
    assert _scalars(events, "5 training/multiplier: F (train, not covered by ε)") == [0.25]
    assert _scalars(events, "4 privacy/released multiplier: F") == [0.5]
    # Nor does what Keras's own callbacks write down say otherwise.
    logs = {"multiplier: F": 0.25, "released multiplier: F": 0.5}
    assert list(marked_logs(logs)) == [
        "multiplier: F (train, not covered by ε)",
        "released multiplier: F",
    ]


def test_pictures_are_drawn_of_about_ten_epochs_and_of_the_last(tmp_path):
    predictions = from_answers([0, 1, 0, 1], [0, 1, 1, 0], [0, 0, 1, 1])
    fairness = FairnessCallback(lambda: predictions, tmp_path, SETTINGS)
    fairness.set_params({"epochs": 25})
    fairness.on_train_begin()
    for epoch in range(7):
        fairness.on_epoch_end(epoch)
    fairness.on_train_end()  # stopped early
    events = EventAccumulator(str(tmp_path), size_guidance={"tensors": 0}).Reload()
    drawn = events.Tensors("2 accuracy/confusion matrix")
    assert [event.step for event in drawn] == [1, 3, 6, 7]
    assert [event.step for event in events.Tensors("2 accuracy/loss")] == list(range(1, 8))
