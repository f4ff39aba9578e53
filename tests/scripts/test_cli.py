"""The command line itself: which command, what it loads, what it says."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.scripts.conftest import refused

ROOT = Path(__file__).parents[2]


def test_unknown_command_is_refused(capfd):
    line = refused(capfd, "trian")
    assert line.startswith("expected a command, one of train, evaluate, export")
    assert line.endswith("Received: 'trian'")


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
