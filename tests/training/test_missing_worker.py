"""A worker whose peers do not come says so, and can be stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.local_workers import _free_ports

ROOT = Path(__file__).parents[2]
WAITING = """
import logging
from training.strategy import resolve_strategy
logging.basicConfig(level=logging.INFO, format="%(message)s")
resolve_strategy("multi_worker")
"""


def test_worker_that_waits_for_its_peers_says_so_and_obeys_an_interrupt():
    addresses = [f"127.0.0.1:{port}" for port in _free_ports(2)]
    cluster = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": 0}}
    worker = subprocess.Popen(
        [sys.executable, "-c", WAITING],
        cwd=ROOT,
        env={**os.environ, "TF_CONFIG": json.dumps(cluster), "TF_CPP_MIN_LOG_LEVEL": "3"},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert worker.stderr is not None
        for line in worker.stderr:
            if line.startswith("Waiting for the other workers"):
                break
        with pytest.raises(subprocess.TimeoutExpired):
            worker.wait(5)  # by now it is within TensorFlow
        worker.send_signal(signal.SIGINT)
        assert worker.wait(60) == -signal.SIGINT  # which shells show as 130
    finally:
        worker.kill()
