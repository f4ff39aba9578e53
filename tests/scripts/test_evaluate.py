"""`sterling evaluate`: the numbers of a run again, of any split, from whole checkpoints alone."""

from __future__ import annotations

import json
import shutil

import pytest

from scripts.cli import main
from tests.scripts.conftest import refused

# One process makes the finished run.
pytestmark = pytest.mark.xdist_group("finished run")


def test_evaluate_gives_the_numbers_of_the_run_exactly(capfd, finished_run, tmp_path):
    output = tmp_path / "again.json"
    assert main(["evaluate", "--run", str(finished_run), "--output", str(output)]) == 0
    first = json.loads((finished_run / "evaluation.json").read_text())
    again = json.loads(output.read_text())
    for section in ("split", "counts", "performance", "fairness", "privacy"):
        assert again[section] == first[section]
    assert f"{first['performance']['accuracy']:.4f}" in capfd.readouterr().out


def test_evaluate_measures_another_split(finished_run):
    assert main(["evaluate", f"--run={finished_run}", "--split=validation"]) == 0
    output = finished_run / "evaluation-validation.json"
    measured = json.loads(output.read_text())
    card = json.loads((finished_run / "dataset.json").read_text())
    output.unlink()
    assert measured["split"] == "validation"
    assert measured["counts"]["examples"] == card["examples"]["validation"]


def test_evaluate_without_a_run_is_refused(capfd, tmp_path):
    assert refused(capfd, "evaluate").startswith("--run: expected a run directory")
    assert "Received: '" in refused(capfd, "evaluate", "--run", str(tmp_path / "none"))
    assert refused(capfd, "export", "--run", str(tmp_path)).endswith("(it has no config.yaml).")


def test_evaluate_refuses_a_split_that_is_not_there(capfd, finished_run):
    line = refused(capfd, "evaluate", "--run", str(finished_run), "--split", "dev")
    assert line == "--split: expected train, validation or test. Received: 'dev'"


def test_damaged_checkpoints_are_refused(capfd, finished_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    for file in run.glob("checkpoints/*/variables.data*"):
        file.write_bytes(file.read_bytes()[:-7])
    for command in ("evaluate", "export"):
        line = refused(capfd, command, "--run", str(run))
        assert "every checkpoint there is damaged" in line
    shutil.rmtree(run / "checkpoints")
    assert "has no checkpoint yet" in refused(capfd, "evaluate", "--run", str(run))
