"""One small finished private run, shared by the tests of the commands, and how they refuse."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.cli import main
from tests.models.conftest import tiny_bert  # noqa: F401

RECIPE = """
data: {source: digits, limit: 300}
model: {name: mlp, mlp: {hidden_units: [8], image_size: 8}}
training: {epochs: 2, batch_size: 40, seed: 3, optimizer: {learning_rate: 1e-2}}
privacy: {enabled: true, epsilon: 8}
evaluation: {bootstrap_resamples: 10}
"""


def refused(capfd, *argv: str) -> str:
    """Runs a command that must end with 2; returns its one line on standard error."""
    capfd.readouterr()
    assert main(list(argv)) == 2
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("sterling: ")]
    assert len(lines) == 1
    return lines[0].removeprefix("sterling: ")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Iterator[Path]:
    """A folder that a module's tests work in, so that its recipes name their files without it.

    A seeded private run draws by its recipe, the paths in it among the rest, and those that pytest
    makes are others in every session: so would be the batches and the noise.
    """
    path = tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        yield path


@pytest.fixture(scope="session")
def recipe_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("recipes") / "digits.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="session")
def finished_run(recipe_file, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("runs") / "digits"
    assert main(["train", str(recipe_file), "--run", str(root)]) == 0
    return root


@pytest.fixture(autouse=True)
def process_as_it_was():
    """Undoes what a seeded run sets for the whole process."""
    yield
    import sys

    if "tensorflow" in sys.modules:
        from tensorflow.python.framework import config

        config.disable_op_determinism()
