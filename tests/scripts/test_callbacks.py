"""Callbacks that a recipe names: what they may write of a private run's training examples."""

from __future__ import annotations

import csv

import keras
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from configs.schema import PrivacySettings, Recipe
from scripts.callbacks import callback_of

MARK = " (train, not covered by ε)"
PRIVATE = PrivacySettings(enabled=True, epsilon=3.0, delta=1e-3)


def fitted_with(name, options, recipe):
    """Fits a small model, watched by the recipe's callback."""
    callback = callback_of(name, options, recipe)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", metrics=["mae"])
    x, y = np.ones((4, 2)), np.ones((4, 1))
    model.fit(x, y, epochs=2, verbose=0, validation_data=(x, y), callbacks=[callback])
    return callback


@pytest.mark.parametrize(("privacy", "mark"), [(PrivacySettings(), ""), (PRIVATE, MARK)])
def test_csv_of_a_private_run_says_what_epsilon_does_not_cover(tmp_path, privacy, mark):
    file = tmp_path / "log.csv"
    callback = fitted_with("CSVLogger", {"filename": str(file)}, Recipe(privacy=privacy))
    assert type(callback).__name__ == "CSVLogger"  # its state is found again by this name
    with file.open(encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    assert set(rows[0]) == {"epoch", f"loss{mark}", f"mae{mark}", "val_loss", "val_mae"}
    assert [float(row[f"loss{mark}"]) > 0 for row in rows] == [True, True]


def test_keras_own_tensorboard_marks_epochs_and_batches(tmp_path):
    options = {"log_dir": str(tmp_path), "update_freq": "batch"}
    fitted_with("TensorBoard", options, Recipe(privacy=PRIVATE))
    events = EventAccumulator(str(tmp_path / "train")).Reload()
    tags = {tag for tag in events.Tags()["tensors"] if "loss" in tag or "mae" in tag}
    assert tags == {
        f"{when}_{what}{MARK}" for when in ("epoch", "batch") for what in ("loss", "mae")
    }
    unmarked = EventAccumulator(str(tmp_path / "validation")).Reload().Tags()["tensors"]
    assert {"epoch_loss", "epoch_mae"} <= set(unmarked)
