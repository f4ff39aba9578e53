"""One small finished private run, shared by the tests of the commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.models.conftest import tiny_bert  # noqa: F401

RECIPE = """
data: {source: digits, limit: 300}
model: {name: mlp, mlp: {hidden_units: [8], image_size: 8}}
training: {epochs: 2, batch_size: 40, seed: 3, optimizer: {learning_rate: 1e-2}}
privacy: {enabled: true, epsilon: 8}
evaluation: {bootstrap_resamples: 10}
"""


@pytest.fixture(scope="session")
def recipe_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("recipes") / "digits.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="session")
def finished_run(recipe_file, tmp_path_factory) -> Path:
    from scripts.cli import main

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
