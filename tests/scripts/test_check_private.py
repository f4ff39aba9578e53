"""`sterling check-private`: as a process, on recipes and on models in files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import keras
import pytest
import yaml

from models import load_keras
from scripts.cli import main
from training.privacy.inspection import problems_of

ROOT = Path(__file__).parents[2]
RECIPE = """
data: {source: digits, limit: 60}
model: {name: resnet50, resnet50: {image_size: 32, stem: small}}
training: {steps: 1, batch_size: 8}
privacy: {enabled: true, noise_multiplier: 1}
"""


def mixing_model() -> keras.Model:
    x = keras.Input((4,))
    y = keras.layers.BatchNormalization(name="mixer")(keras.layers.Dense(4)(x))
    return keras.Model(x, keras.layers.Dense(2)(y))


@pytest.fixture
def model_file(tmp_path) -> Path:
    path = tmp_path / "model.keras"
    mixing_model().save(path)
    return path


def test_recipe_is_converted_and_every_problem_of_it_listed(capsys, tmp_path) -> None:
    recipe, output = tmp_path / "batch.yaml", tmp_path / "group.yaml"
    recipe.write_text(RECIPE)
    arguments = ["check-private", str(recipe), "--convert", "group", "--output", str(output)]
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    problems = [line for line in lines if line.startswith("- layer '")]
    assert len(problems) == 53  # every batch normalization of a ResNet50
    assert all("BatchNormalization" in line and "Use group" in line for line in problems)
    assert lines[-2:] == [
        "model resnet50, converted: no problem found",
        f"{output}: model.resnet50.normalization is group",
    ]
    written = yaml.safe_load(output.read_text())
    assert written["model"]["resnet50"]["normalization"] == "group"
    assert written["privacy"]["noise_multiplier"] == 1


@pytest.mark.parametrize(
    ("privacy", "line"),
    [
        ("mechanism: {method: tree}", "privacy.mechanism.method"),
        ("clipping: {method: groups, groups: [{variables: nothing*}]}", "privacy.clipping.groups"),
    ],
)
def test_plan_that_training_would_refuse_is_a_problem(capsys, tmp_path, privacy, line) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.replace("noise_multiplier: 1", f"noise_multiplier: 1, {privacy}"))
    small = ["--model.name=mlp", "--model.mlp.image_size=8"]
    assert main(["check-private", str(recipe), *small]) == 2
    (problem,) = [ln for ln in capsys.readouterr().out.splitlines() if ln.startswith("- ")]
    assert line in problem


@pytest.mark.parametrize(
    ("fairness", "line"),
    [
        # Refused as it is read, for what is left to be looked at all the same.
        ("penalty: {measure: mmd}", "- fairness.penalty.measure: expected null with privacy"),
        # Refused against the data, once there is a plan.
        (
            "group_dro: {step_size: 0.1}, releases: {noise_multiplier: 4}",
            "- fairness.attribute: expected one of the data's group attributes",
        ),
    ],
    ids=["penalty", "game"],
)
def test_fairness_that_training_would_refuse_is_listed_beside_the_layers(
    capsys, tmp_path, fairness, line
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"{RECIPE}fairness: {{attribute: sex, {fairness}}}\n")
    assert main(["check-private", str(recipe)]) == 2
    shown = capsys.readouterr()
    problems = [ln for ln in shown.out.splitlines() if ln.startswith("- ")]
    assert len([problem for problem in problems if problem.startswith("- layer '")]) == 53
    assert len([problem for problem in problems if problem.startswith(line)]) == 1
    assert "54 problem(s)" in shown.err


@pytest.mark.slow
def test_process_checks_and_converts_a_model_file(model_file, tmp_path) -> None:
    output = tmp_path / "private.keras"
    arguments = ["check-private", str(model_file), "--convert=frozen", f"--output={output}"]
    done = subprocess.run(
        [sys.executable, "-m", "scripts.cli", *arguments],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"},
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    problem, *rest = done.stdout.splitlines()
    assert "layer 'mixer' (BatchNormalization" in problem
    assert rest == [f"{model_file}, converted: no problem found", f"{output}: written"]
    assert problems_of(load_keras(output)) == []


def test_problems_that_are_left_end_with_two(capsys, model_file) -> None:
    assert main(["check-private", "--model", str(model_file)]) == 2
    shown = capsys.readouterr()
    assert "layer 'mixer' (BatchNormalization" in shown.out
    assert shown.err == f"sterling: {model_file}: 1 problem(s) keep it from being private\n"


REFUSED = {
    "nowhere": (["--convert=group"], "--output: expected the name of a new .keras file"),
    "other kind of file": (["--convert=group", "--output=new.yaml"], "a new .keras file"),
    "over a file": (["--convert=group", "--output={model}"], "a new .keras file"),
    "output alone": (["--output=new.keras"], "--convert: expected group or frozen"),
    "unknown conversion": (["--convert=layer", "--output=new.keras"], "convert"),
}


@pytest.mark.parametrize(("arguments", "line"), REFUSED.values(), ids=REFUSED)
def test_impossible_conversion_ends_with_one_line(capsys, model_file, arguments, line) -> None:
    before = model_file.read_bytes()
    named = [argument.format(model=model_file) for argument in arguments]
    assert main(["check-private", str(model_file), *named]) == 2
    assert line in capsys.readouterr().err
    assert model_file.read_bytes() == before
    assert [path.name for path in model_file.parent.iterdir()] == ["model.keras"]


def test_file_that_is_no_model_is_refused(capsys, tmp_path) -> None:
    (tmp_path / "text.keras").write_text("hello")
    assert main(["check-private", str(tmp_path / "text.keras")]) == 2
    assert "expected a .keras file" in capsys.readouterr().err


def test_how_a_model_file_would_be_clipped_is_explained(capsys, tmp_path) -> None:
    path = tmp_path / "sequential.keras"
    layers = [keras.Input((6, 5)), keras.layers.Dense(4), keras.layers.LayerNormalization()]
    keras.Sequential(layers, name="stack").save(path)
    assert main(["check-private", str(path), "--explain", "--batch-size=7"]) == 0
    shown = capsys.readouterr().out
    assert "no problem found" in shown
    assert "DenseRule" in shown
    assert "LayerNormalizationRule" in shown
    assert main(["check-private", str(path), "--explain", "--batch-size=0"]) == 2
    assert "--batch-size: expected a positive number" in capsys.readouterr().err
