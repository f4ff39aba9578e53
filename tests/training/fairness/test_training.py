"""Runs with a mitigation: from a recipe over people with groups to the gap that is left."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from configs.schema import (
    DataSettings,
    FairnessSettings,
    ImageFolderSettings,
    MlpSettings,
    ModelSettings,
    OptimizerSettings,
    PenaltySettings,
    Recipe,
    SettingError,
    TrainingSettings,
)
from data import batches_in_order
from training.run_directory import RunDirectory
from training.session import open_session


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Recipe:
    """Small images whose brightness tells label and, as strongly, the ward."""
    folder = tmp_path_factory.mktemp("scans")
    rng = np.random.default_rng(0)
    rows = ["path,outcome,ward"]
    for i in range(400):
        ward, outcome = rng.integers(0, 2), rng.integers(0, 2)
        pixels = rng.normal(100 + 40 * outcome + 40 * ward, 30, (4, 4)).clip(0, 255)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
        rows.append(f"{i}.png,{('no', 'yes')[outcome]},{('east', 'west')[ward]}")
    (folder / "people.csv").write_text("\n".join(rows), encoding="utf-8")
    source = ImageFolderSettings(
        train=str(folder / "people.csv"), path="path", label="outcome", groups=["ward"]
    )
    return Recipe(
        data=DataSettings(source="image_folder", image_folder=source),
        model=ModelSettings(name="mlp", mlp=MlpSettings(hidden_units=[8], image_size=4)),
        training=TrainingSettings(
            steps=150,
            batch_size=64,
            physical_batch_size=32,
            optimizer=OptimizerSettings(learning_rate=0.02),
            seed=1,
        ),
    )


def gap_after(recipe: Recipe, folder) -> tuple[float, dict[str, float]]:
    """Difference between the wards' mean scores after training, and the last logs."""
    session = open_session(recipe)
    logs: dict[str, float] = {}

    import keras

    keep = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, last: logs.update(last))
    session.loop(RunDirectory.at(str(folder)), [keep], None, verbose=0).run()
    (batch,) = batches_in_order(session.train, len(session.train))
    logits = session.model.trained(batch["inputs"]).numpy()
    scores = 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))
    ward = batch["groups"]["ward"].numpy()
    return abs(scores[ward == 1].mean() - scores[ward == 0].mean()), logs


def test_penalty_closes_most_of_the_gap_and_is_logged_on_its_own(recipe, tmp_path):
    plain, without = gap_after(recipe, tmp_path / "plain")
    fairness = FairnessSettings(
        attribute="ward", penalty=PenaltySettings(measure="rate_gap", weight=20.0)
    )
    fair, logs = gap_after(replace(recipe, fairness=fairness), tmp_path / "fair")
    assert plain > 0.15
    assert fair < plain / 2
    assert "unfairness" not in without
    # The mean of the batches' squared gaps, apart from the loss of the task.
    assert 0 < logs["unfairness"] < plain**2


def test_attribute_that_the_data_lack_is_refused_before_anything_is_computed(recipe):
    fairness = FairnessSettings(attribute="sex", reweighing=True)
    with pytest.raises(SettingError, match=r"fairness.attribute.*\['ward'\].*Received: 'sex'"):
        open_session(replace(recipe, fairness=fairness))
