"""The commands: what they refuse, what they leave behind, what they reproduce."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scripts.cli import main

ROOT = Path(__file__).parents[2]


def refused(capfd, *argv: str) -> str:
    """Runs a command that must end with 2; returns its one line on standard error."""
    capfd.readouterr()
    assert main(list(argv)) == 2
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("sterling: ")]
    assert len(lines) == 1
    return lines[0].removeprefix("sterling: ")


# Overrides of the digits recipe -> what the line must hold.
IMPOSSIBLE = {
    "unknown key": (["--privacy.epsilo=3"], "--privacy.epsilo: expected the name of a setting"),
    "wrong type": (["--training.epochs=many"], "training.epochs: expected a number"),
    "negative epsilon": (["--privacy.epsilon=-1"], "privacy.epsilon: expected a number > 0"),
    "no clipping": (["--privacy.clipping_norm=0"], "privacy.clipping_norm: expected a number > 0"),
    "both": (["--privacy.noise_multiplier=1"], "privacy.noise_multiplier: expected null where"),
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


@pytest.mark.parametrize(("overrides", "line"), IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_impossible_recipe_ends_with_one_line_and_writes_nothing(
    capfd, recipe_file, tmp_path, overrides, line
):
    run = tmp_path / "run"
    assert line in refused(capfd, "train", str(recipe_file), "--run", str(run), *overrides)
    assert not run.exists()
    assert not list(tmp_path.iterdir())


def test_inferred_groups_of_other_examples_are_refused_before_anything_is_paid(
    capfd, recipe_file, tmp_path
):
    shares, run = tmp_path / "shares.csv", tmp_path / "run"
    shares.write_text("young,old\n" + "0.5,0.5\n" * 5_000)
    asked = f"--evaluation.soft_groups={{age: {shares}}}"
    line = refused(capfd, "train", str(recipe_file), "--run", str(run), asked)
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


def test_unknown_command_is_refused(capfd):
    line = refused(capfd, "trian")
    assert line.startswith("expected a command, one of train, evaluate, export")
    assert line.endswith("Received: 'trian'")


def test_folder_of_something_else_is_left_alone(capfd, recipe_file, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    line = refused(capfd, "train", str(recipe_file), "--run", str(tmp_path))
    assert line == f"{tmp_path}: is no run directory. Name another one with --run."
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_other_recipe_in_the_same_run_directory_is_refused(capfd, recipe_file, finished_run):
    line = refused(capfd, "train", str(recipe_file), "--run", str(finished_run), "--data.limit=200")
    assert "holds a run of another recipe (data.limit is 300 there, 200 here)" in line


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


def test_private_run_without_its_ledger_is_refused(capfd, recipe_file, finished_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    (run / "ledger.jsonl").unlink()
    assert "what this private run spent is unknown" in refused(capfd, "evaluate", "--run", str(run))
    (run / "evaluation.json").unlink()
    line = refused(capfd, "train", str(recipe_file), "--run", str(run))
    assert "what this private run spent is unknown" in line


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


def process(*argv: str) -> tuple[subprocess.CompletedProcess[str], float]:
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "scripts.cli", *argv],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done, time.monotonic() - started


@pytest.mark.parametrize(
    ("argv", "heavy"),
    [
        (["--help"], {"tensorflow", "keras", "numpy", "jsonargparse", "yaml"}),
        (["train", "--help"], {"tensorflow", "keras", "numpy", "fsspec"}),
    ],
    ids=["--help", "train --help"],
)
def test_help_waits_for_no_heavy_import(argv, heavy):
    """What takes long is not loaded: that holds on a busy machine too, where seconds do not."""
    program = f"""
import sys
from scripts.cli import main
try:
    main({argv!r})
except SystemExit as end:
    assert not end.code
loaded = {heavy!r} & set(sys.modules)
assert not loaded, loaded
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "check-private" in done.stdout or "--privacy.epsilon" in done.stdout


def test_refusal_is_all_that_a_process_says(recipe_file, tmp_path):
    done, _ = process(
        "train", str(recipe_file), f"--run={tmp_path / 'run'}", "--training.batch_size=1000"
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        "sterling: training.batch_size: expected at most the 300 training examples. "
        "Received: 1000\n"
    )
    assert not list(tmp_path.iterdir())
