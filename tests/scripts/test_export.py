"""`sterling export`: what leaves with a model, and what does not."""

from __future__ import annotations

import json
import shutil

import pytest

from scripts.cli import main
from tests.scripts.conftest import refused

# One process makes the finished run.
pytestmark = pytest.mark.xdist_group("finished run")


def test_export_of_a_private_run_does_not_carry_its_seed(finished_run):
    exported = finished_run / "export" / "saved_model" / "assets" / "recipe.yaml"
    assert "seed: null" in exported.read_text()
    assert "seed: 3" in (finished_run / "config.yaml").read_text()


def test_export_of_an_unfinished_private_run_says_so_and_what_its_ledger_holds(
    capfd, finished_run, tmp_path
):
    unfinished = tmp_path / "unfinished"
    shutil.copytree(finished_run, unfinished)
    statement = (unfinished / "privacy.txt").read_text()
    for name in ("evaluation.json", "privacy.txt"):
        (unfinished / name).unlink()
    shutil.rmtree(unfinished / "export")
    capfd.readouterr()
    assert main(["export", "--run", str(unfinished)]) == 0
    assert "is not finished" in capfd.readouterr().out
    assets = unfinished / "export" / "saved_model" / "assets"
    assert (assets / "privacy.txt").read_text() == statement
    assert not (assets / "evaluation.json").exists()


def test_export_writes_both_formats_again(finished_run, tmp_path):
    output = tmp_path / "export"
    assert main(["export", "--run", str(finished_run), "--output", str(output)]) == 0
    assert {path.name for path in output.iterdir()} == {"saved_model", "model.keras"}
    assets = {path.name for path in (output / "saved_model" / "assets").iterdir()}
    assert assets == {"recipe.yaml", "privacy.txt", "evaluation.json", "serving.txt"}


def test_export_to_hugging_face_is_for_bert(capfd, finished_run, tmp_path):
    line = refused(
        capfd, "export", f"--run={finished_run}", "--format=huggingface", f"--output={tmp_path}/hf"
    )
    assert line.startswith("--format: expected keras, because the run's model is mlp")
    assert not (tmp_path / "hf").exists()


@pytest.mark.slow
def test_bert_run_exports_to_hugging_face(tmp_path, tiny_bert):
    import transformers

    table = tmp_path / "texts.csv"
    rows = [f"{'the cat sat' if i % 2 else 'a dog ran'},{i % 2}" for i in range(60)]
    table.write_text("\n".join(["text,label", *rows]) + "\n")
    run = tmp_path / "run"
    argv = [
        "train",
        f"--run={run}",
        "--data.source=csv",
        f"--data.table.train={table}",
        "--data.table.text=text",
        "--model.name=bert",
        f"--model.bert.weights={tiny_bert}",
        "--model.bert.sequence_length=8",
        "--training.steps=2",
        "--training.batch_size=8",
        "--training.early_stopping_patience=1",
        "--privacy.enabled=true",
        "--privacy.noise_multiplier=1",
        "--evaluation.bootstrap_resamples=0",
    ]
    assert main(argv) == 0
    assert main(["export", "--run", str(run), "--format", "huggingface"]) == 0
    folder = run / "export" / "huggingface"
    model = transformers.AutoConfig.from_pretrained(folder)
    assert model.id2label == {0: "0", 1: "1"}
    statement = json.loads((run / "evaluation.json").read_text())["privacy"]["statement"]
    assert "whoever knows it can subtract the noise" not in statement
