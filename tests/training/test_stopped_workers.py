"""A signal to one of several workers stops all of them at one step, from which they go on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scripts.local_workers import _free_ports
from training.privacy.ledger import Ledger

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("local workers")]


def two_workers(run: Path, *of_second: str) -> list[tuple[int, dict[str, Any]]]:
    """Exit code and last words of each worker; `of_second` are options of worker 1 alone."""
    addresses = [f"127.0.0.1:{port}" for port in _free_ports(2)]
    processes = []
    for index in range(2):
        config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        options = of_second if index else ()
        processes.append(
            subprocess.Popen(
                [sys.executable, "-m", "tests.training.stopped_workers", str(run), *options],
                cwd=Path(__file__).parents[2],
                env={
                    **os.environ,
                    "TF_CONFIG": json.dumps(config),
                    "TF_CPP_MIN_LOG_LEVEL": "3",
                    "TF_NUM_INTRAOP_THREADS": "1",
                },
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    found = []
    for process in processes:
        out, errors = process.communicate(timeout=900)
        assert out, errors[-3000:]
        found.append((process.returncode, json.loads(out.splitlines()[-1])))
    return found


def test_signal_to_one_worker_within_a_logical_batch_stops_both_at_one_step(tmp_path):
    undisturbed = two_workers(tmp_path / "whole")
    assert [code for code, _ in undisturbed] == [0, 0]

    stopped = two_workers(tmp_path / "cut", "--stop-after-additions", "23")
    assert [code for code, _ in stopped] == [128 + signal.SIGTERM] * 2
    (step,) = {said["step"] for _, said in stopped}
    assert 0 < step < 12
    ledger = tmp_path / "cut" / "ledger.jsonl"
    # The logical batch that was begun released nothing.
    assert Ledger.existing(ledger).releases == step
    assert (tmp_path / "cut" / "checkpoints" / f"step-{step:08d}").is_dir()

    resumed = two_workers(tmp_path / "cut")
    assert [code for code, _ in resumed] == [0, 0]
    assert {said["weights"] for _, said in resumed} == {said["weights"] for _, said in undisturbed}
    assert Ledger.existing(ledger).releases == 12
