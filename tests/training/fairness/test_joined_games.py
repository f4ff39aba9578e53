"""Two joined workers learn from the noisy tables of one process, and the ledger pays once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from data import batches_in_order
from scripts.local_workers import _free_ports
from tests.training.test_reading_ahead import vectors
from training.privacy.ledger import Ledger
from training.workers import Workers

ROOT = Path(__file__).parents[3]


def started(folder: Path, *arguments: str, config: dict[str, Any] | None) -> subprocess.Popen[str]:
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "TF_NUM_INTRAOP_THREADS": "1"}
    environment["PYTHONPATH"] = str(ROOT)  # each goes to a folder of its own
    if config is not None:
        environment["TF_CONFIG"] = json.dumps(config)
    module = "tests.training.fairness.joined_games"
    return subprocess.Popen(
        [sys.executable, "-m", module, str(folder), *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, errors = process.communicate(timeout=500)
    assert process.returncode == 0, errors[-3000:]
    return json.loads(out.splitlines()[-1])


def differ(one: dict[str, Any], other: dict[str, Any]) -> float:
    return max(
        float(np.abs(np.asarray(a) - np.asarray(b)).max())
        for part in ("weights", "state")
        for a, b in zip(one[part], other[part], strict=True)
    )


@pytest.mark.slow
@pytest.mark.xdist_group("local workers")
@pytest.mark.parametrize(
    ("game", "silent"), [("odds", True), ("odds", False), ("dro", False), ("counts", False)]
)
def test_two_workers_hold_the_tables_and_the_multipliers_of_one_process(tmp_path, game, silent):
    options = (game, *(["--silent"] if silent else []))
    addresses = [f"127.0.0.1:{port}" for port in _free_ports(2)]
    joined = [
        started(
            tmp_path / "two",
            *options,
            config={"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}},
        )
        for index in range(2)
    ]
    alone = ended(started(tmp_path / "one", *options, config=None))
    chief, other = (ended(process) for process in joined)
    assert chief == other
    assert differ(chief, alone) < 1e-5
    ledgers = [Ledger.existing(tmp_path / runs / "run/ledger.jsonl") for runs in ("two", "one")]
    two, one = (
        {entry["groups"]["step"]: entry["groups"]["table"] for entry in lines if "groups" in entry}
        for lines in (
            [json.loads(line) for line in ledger._file.path.read_text().splitlines()]
            for ledger in ledgers
        )
    )
    assert two.keys() == one.keys()
    assert len(two) == ledgers[0].tables == (1 if game == "counts" else 3 if game == "dro" else 2)
    # As many lines as tables and steps: no worker paid a second time.
    assert ledgers[0].recorded == ledgers[1].recorded == 12 + len(two)
    for step, table in two.items():
        # Rounding of weights may turn nobody's answer; of losses it is in the table, which it may
        # bring to the next step of the grid of releases (2^-8 at this noise).
        np.testing.assert_allclose(table, one[step], atol=2**-8 + 1e-3 if game == "dro" else 1e-9)
        whole = np.asarray(table) - np.round(table)
        assert silent == bool(np.abs(whole).max() < 1e-6)


def test_parts_of_workers_are_all_batches_each_once():
    prepared = vectors(50)
    ids = [
        set(batch["ids"][batch["mask"]].numpy().tolist())
        for index in range(3)
        for batch in batches_in_order(prepared, 8, index=index, count=3)
    ]
    assert sum(map(len, ids)) == 50
    assert set.union(*ids) == set(range(50))
    assert len(ids) == 7


def test_one_process_is_its_own_total():
    workers = Workers(tf.distribute.get_strategy())
    table = np.arange(6.0).reshape(2, 3)
    assert (workers.index, workers.count) == (0, 1)
    np.testing.assert_array_equal(workers.total(table), table)
