"""A finished run: what it leaves behind, and what `sterling train` makes of it again."""

from __future__ import annotations

import json
import shutil

import pytest

from scripts.cli import main
from tests.scripts.conftest import refused

# One process makes the finished run.
pytestmark = pytest.mark.xdist_group("finished run")


def test_finished_run_leaves_everything_behind(finished_run):
    assert {path.name for path in finished_run.iterdir()} == {
        "checkpoints",
        "config.yaml",
        "dataset.json",
        "evaluation.json",
        "export",
        "ledger.jsonl",
        "logs",
        "privacy.txt",
    }
    assert not list(finished_run.rglob("*.partial"))
    report = json.loads((finished_run / "evaluation.json").read_text())
    assert 0 < report["privacy"]["epsilon"] <= 8
    assert report["privacy"]["statement"] in (finished_run / "privacy.txt").read_text()
    assert report["privacy"]["reproducible"]


def test_second_train_shows_the_report_and_trains_nothing(capfd, recipe_file, finished_run):
    before = {path: path.stat().st_mtime_ns for path in finished_run.rglob("*")}
    assert main(["train", str(recipe_file), "--run", str(finished_run)]) == 0
    shown = capfd.readouterr().out
    assert "this run is finished" in shown
    assert "accuracy" in shown
    assert "Epoch" not in shown
    assert {path: path.stat().st_mtime_ns for path in finished_run.rglob("*")} == before


def test_other_recipe_in_the_same_run_directory_is_refused(capfd, recipe_file, finished_run):
    line = refused(capfd, "train", str(recipe_file), "--run", str(finished_run), "--data.limit=200")
    assert "holds a run of another recipe (data.limit is 300 there, 200 here)" in line


def test_damaged_report_or_recipe_of_a_finished_run_is_named(
    capfd, recipe_file, finished_run, tmp_path
):
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    report = run / "evaluation.json"
    report.write_bytes(report.read_bytes()[:300])
    line = refused(capfd, "train", str(recipe_file), "--run", str(run))
    assert "evaluation.json: is damaged" in line
    assert "Remove it" in line
    (run / "config.yaml").write_bytes(b"\xa6\xff\x00")
    line = refused(capfd, "train", str(recipe_file), "--run", str(run))
    assert "its config.yaml cannot be read" in line


def test_private_run_without_its_ledger_is_refused(capfd, recipe_file, finished_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    (run / "ledger.jsonl").unlink()
    assert "what this private run spent is unknown" in refused(capfd, "evaluate", "--run", str(run))
    (run / "evaluation.json").unlink()
    line = refused(capfd, "train", str(recipe_file), "--run", str(run))
    assert "what this private run spent is unknown" in line
