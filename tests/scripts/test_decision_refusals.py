"""Group thresholds and abstention that cannot be had: one line, before anything is written."""

from __future__ import annotations

import pytest

from tests.scripts.conftest import refused
from tests.scripts.test_decisions import PRIVATE, recipe  # noqa: F401

IMPOSSIBLE = {
    "attribute that is not there": (
        ["--decision.thresholds.attribute=age"],
        "decision.thresholds.attribute: expected one of the data's group attributes "
        "['sex', 'town']. Received: 'age'",
    ),
    "group without positives": (
        ["--decision.thresholds.attribute=town"],
        "decision.thresholds.attribute: expected an attribute whose every group has validation "
        "examples of both labels; 'tiny' has none of",
    ),
    "no validation split": (
        ["--data.validation_fraction=0"],
        "decision.thresholds.attribute: expected validation examples to fit thresholds on",
    ),
    "private without epsilon": (
        PRIVATE,
        "decision.epsilon: expected a number > 0: privacy.epsilon covers the training examples",
    ),
    "epsilon without privacy": (
        ["--decision.epsilon=1"],
        "decision.epsilon: expected null, because privacy.enabled is false",
    ),
    "epsilon without thresholds": (
        [
            *PRIVATE,
            "--decision.epsilon=1",
            "--decision.thresholds.attribute=null",
            "--decision.abstain.width=0.1",
        ],
        "decision.epsilon: expected decision.thresholds.attribute too",
    ),
    "early stopping": (
        [
            *PRIVATE,
            "--decision.epsilon=3",
            "--training.early_stopping_patience=1",
        ],
        "decision.epsilon: expected no choice by validation measurements",
    ),
    "delta": (
        [
            *PRIVATE,
            "--decision.epsilon=3",
            "--decision.delta=0.5",
        ],
        "decision.delta: expected less than 1/N",
    ),
    "tolerance of equalized odds": (
        [
            "--decision.thresholds.constraint=equalized_odds",
            "--decision.thresholds.tolerance=0.1",
        ],
        "decision.thresholds.tolerance: expected null with",
    ),
    "strength": (
        ["--decision.thresholds.strength=0"],
        "decision.thresholds.strength: expected a share in (0, 1]. Received: 0",
    ),
}


@pytest.mark.parametrize(("overrides", "line"), IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_impossible_decision_ends_with_one_line_and_writes_nothing(
    capfd,
    recipe,  # noqa: F811
    tmp_path,
    overrides,
    line,
):
    run = tmp_path / "run"
    assert line in refused(capfd, "train", str(recipe), "--run", str(run), *overrides)
    assert not run.exists()


def test_many_labels_cannot_be_decided(capfd, recipe_file, tmp_path):
    line = refused(
        capfd,
        "train",
        str(recipe_file),
        f"--run={tmp_path / 'run'}",
        "--privacy.epsilon=null",
        "--privacy.noise_multiplier=1",
        "--decision.abstain.width=0.1",
    )
    assert line.startswith("decision.abstain.width: expected nothing, because only two labels")
