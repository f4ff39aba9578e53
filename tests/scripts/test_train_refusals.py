"""Recipes that `sterling train` refuses: with one line, before it writes or pays anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.scripts.conftest import RECIPE, refused

# Overrides of the digits recipe -> what the line must hold.
IMPOSSIBLE = {
    "unknown key": (["--privacy.epsilo=3"], "--privacy.epsilo: expected the name of a setting"),
    "wrong type": (["--training.epochs=many"], "training.epochs: expected a number"),
    "negative epsilon": (["--privacy.epsilon=-1"], "privacy.epsilon: expected a number > 0"),
    "no clipping": (["--privacy.clipping_norm=0"], "privacy.clipping_norm: expected a number > 0"),
    "both": (["--privacy.epsilon=8"], "privacy.noise_multiplier: expected null where"),
    "batch": (
        ["--training.batch_size=1000"],
        "training.batch_size: expected at most the 300 training examples. Received: 1000",
    ),
    "delta": (["--privacy.delta=0.1"], "privacy.delta: expected less than 1/N = 0.00333"),
    "missing data file": (
        ["--data.source=csv", "--data.table.train=nowhere.csv", "--data.table.text=a"],
        "nowhere.csv",
    ),
    "unknown model": (["--model.name=alexnet"], "model.name: expected one of bert,"),
    "unknown optimizer": (["--training.optimizer.name=Adamm"], "training.optimizer.name: expected"),
    "unknown option": (
        ["--training.optimizer.options={momentom: 0.9}"],
        "training.optimizer.options: expected options that keras.optimizers.Adam takes",
    ),
    "unknown callback": (["--training.callbacks={Nope: {}}"], "training.callbacks.Nope: expected"),
    "callback's argument": (
        ["--training.callbacks={TerminateOnNaN: {a: 1}}"],
        "training.callbacks.TerminateOnNaN: expected arguments that TerminateOnNaN takes",
    ),
    "callback on training loss": (
        ["--training.callbacks={ModelCheckpoint: {filepath: x.keras, monitor: loss}}"],
        "training.callbacks.ModelCheckpoint: expected a callback that monitors validation",
    ),
    "stop on a training loss": (
        ["--training.callbacks={TerminateOnNaN: {}}"],
        "training.callbacks.TerminateOnNaN: expected a callback that monitors validation",
    ),
    "training loss in a file's name": (
        ["--training.callbacks={ModelCheckpoint: {filepath: '{epoch}-{loss:.2f}.keras'}}"],
        "training.callbacks.ModelCheckpoint: expected a filepath of {epoch} and val_ figures alone",
    ),
    "two hands on the learning rate": (
        [
            "--training.optimizer.schedule=cosine",
            "--training.callbacks={ReduceLROnPlateau: {monitor: val_loss}}",
        ],
        "training.callbacks.ReduceLROnPlateau: expected training.optimizer.schedule: constant",
    ),
    "negative seed": (["--training.seed=-1"], "training.seed: expected a whole number >= 0"),
    "class weight": (["--training.class_weights={x: 2}"], "training.class_weights.x: expected one"),
    "unknown attribute": (["--evaluation.attributes=[sex]"], "evaluation.attributes: expected one"),
    "too many groups crossed": (
        [
            f"--evaluation.soft_groups={dict.fromkeys('abcdefghijkl', 'x.csv')}",
            "--evaluation.intersections=6",
        ],
        "evaluation.intersections: expected fewer attributes crossed at once",
    ),
    "unknown label": (["--evaluation.positive_label=x"], "evaluation.positive_label: expected one"),
    "nothing to watch": (
        ["--data.validation_fraction=0", "--training.early_stopping_patience=1"],
        "training.early_stopping_patience: expected validation examples",
    ),
    "no length": (["--training.epochs=null"], "training.epochs: expected training.epochs or"),
    "batch normalization": (
        [
            "--model.name=resnet50",
            "--model.resnet50.image_size=32",
            "--model.resnet50.stem=small",
            "--data.limit=80",
        ],
        "BatchNormalization",
    ),
}


@pytest.fixture(scope="module")
def priced_recipe(tmp_path_factory) -> Path:
    """The digits recipe with its noise given: to calibrate it takes longer than all the rest."""
    path = tmp_path_factory.mktemp("priced") / "digits.yaml"
    path.write_text(RECIPE.replace("epsilon: 8", "noise_multiplier: 1"))
    return path


@pytest.mark.parametrize(("overrides", "line"), IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_impossible_recipe_ends_with_one_line_and_writes_nothing(
    capfd, priced_recipe, tmp_path, overrides, line
):
    run = tmp_path / "run"
    assert line in refused(capfd, "train", str(priced_recipe), "--run", str(run), *overrides)
    assert not run.exists()
    assert not list(tmp_path.iterdir())


def test_inferred_groups_of_other_examples_are_refused_before_anything_is_paid(
    capfd, priced_recipe, tmp_path
):
    shares, run = tmp_path / "shares.csv", tmp_path / "run"
    shares.write_text("young,old\n" + "0.5,0.5\n" * 5_000)
    asked = f"--evaluation.soft_groups={{age: {shares}}}"
    line = refused(capfd, "train", str(priced_recipe), "--run", str(run), asked)
    assert line.startswith("evaluation.soft_groups.age: expected a row for each of the ")
    assert not run.exists()


def test_label_column_that_is_not_there_is_refused_with_the_columns_there(capfd, tmp_path):
    table = tmp_path / "people.csv"
    table.write_text("text,income\nhello,1\nbye,0\n")
    line = refused(
        capfd,
        "train",
        "--data.source=csv",
        f"--data.table.train={table}",
        "--data.table.text=text",
        "--data.table.label=wealth",
        f"--run={tmp_path / 'run'}",
    )
    assert "wealth" in line
    assert "income" in line
    assert not (tmp_path / "run").exists()


def test_data_without_a_test_example_are_refused_before_training(capfd, tmp_path):
    table, run = tmp_path / "people.csv", tmp_path / "run"
    table.write_text("age,label\n" + "30,a\n60,b\n" * 20)
    line = refused(
        capfd,
        "train",
        "--data.source=csv",
        f"--data.table.train={table}",
        "--data.table.features=[age]",
        "--data.test_fraction=0",
        "--model.name=mlp",
        "--training.steps=1",
        f"--run={run}",
    )
    assert line.startswith("The test split of people has no examples")
    assert not run.exists()


def test_missing_recipe_is_refused(capfd, tmp_path):
    line = refused(capfd, "train", str(tmp_path / "none.yaml"), "--run", str(tmp_path / "run"))
    assert line.startswith(f"{tmp_path}/none.yaml: expected a recipe file")
    assert not list(tmp_path.iterdir())


def test_folder_of_something_else_is_left_alone(capfd, recipe_file, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    line = refused(capfd, "train", str(recipe_file), "--run", str(tmp_path))
    assert line == f"{tmp_path}: is no run directory. Name another one with --run."
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
