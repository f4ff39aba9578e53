"""`sterling check-tpu`: whether a recipe's step fits a TPU, seen without one."""

from __future__ import annotations

from dataclasses import replace

import keras
import pytest

from scripts.cli import main
from tests.training.test_tpu import Doing, called_in_python
from training import session, step_choice

RECIPE = """
data: {source: digits, limit: 100}
model: {name: mlp, mlp: {hidden_units: [8], image_size: 8, dropout: 0.1}}
training: {steps: 3, batch_size: 20, strategy: tpu}
"""
PRIVATE = "privacy: {enabled: true, noise_multiplier: 1}"


@pytest.mark.parametrize(
    ("privacy", "said"),
    [(PRIVATE, "all in whole float32"), ("", "which a TPU takes as bfloat16")],
    ids=["private", "plain"],
)
def test_recipe_that_fits_is_said_to_fit_where_no_tpu_is(capsys, tmp_path, privacy, said):
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE + privacy)
    assert main(["check-tpu", str(path)]) == 0
    fits, products = capsys.readouterr().out.splitlines()
    assert fits == "model mlp: no operation keeps its step from a TPU"
    assert products.endswith(said if privacy else f"{said}, as is usual without privacy")
    assert [p.name for p in tmp_path.iterdir()] == ["recipe.yaml"]


@pytest.fixture
def python_within(monkeypatch) -> None:
    """Models end with a layer that calls Python."""
    build = session.build_model

    def with_python(*arguments):
        built = build(*arguments)
        logits = Doing(called_in_python)(built.model.output)
        return replace(built, model=keras.Model(built.model.input, logits))

    monkeypatch.setattr(session, "build_model", with_python)


def test_recipe_that_does_not_fit_ends_with_two_and_every_obstacle(capsys, tmp_path, python_within):
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    assert main(["check-tpu", str(path)]) == 2
    shown = capsys.readouterr()
    (line,) = shown.out.splitlines()
    assert line.startswith("- layer 'culprit': EagerPyFunc (node ")
    assert "calls Python on the host" in line
    assert shown.err == "sterling: model mlp: 1 operation(s) keep its step from a TPU\n"


def test_run_on_a_tpu_is_refused_before_anything_is_written(
    capsys, tmp_path, python_within, monkeypatch
):
    # Of a TPU only what the session asks of its strategy: there is none here.
    monkeypatch.setattr(step_choice, "is_tpu", lambda strategy: True)
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.replace("strategy: tpu", "strategy: one_device"))
    assert main(["train", str(path), "--run", str(tmp_path / "run")]) == 2
    assert "a TPU cannot compile the step: layer 'culprit'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_seed_keeps_no_max_pooling_from_a_tpu(capsys, tmp_path):
    # XLA compiles no gradient of it under the setting by which a seed keeps sums in one order.
    path = tmp_path / "recipe.yaml"
    path.write_text("""
data: {source: digits, limit: 100}
model: {name: cnn, cnn: {filters: [4], image_size: 8}}
training: {steps: 3, batch_size: 8, seed: 1, strategy: tpu}
""")
    assert main(["check-tpu", str(path)]) == 0
    assert "no operation keeps its step from a TPU" in capsys.readouterr().out


def test_seeded_max_pooling_that_xla_is_to_compile_here_is_refused_before_anything_is_written(
    capsys, tmp_path
):
    path = tmp_path / "recipe.yaml"
    path.write_text("""
data: {source: digits, limit: 100}
model: {name: cnn, cnn: {filters: [4], image_size: 8}}
training: {steps: 3, batch_size: 8, seed: 1, jit_compile: true}
""")
    assert main(["train", str(path), "--run", str(tmp_path / "run")]) == 2
    (line,) = [ln for ln in capsys.readouterr().err.splitlines() if ln.startswith("sterling")]
    assert line.startswith("sterling: training.jit_compile: XLA cannot compile the step: layer ")
    assert "MaxPoolGrad" in line
    assert not (tmp_path / "run").exists()
