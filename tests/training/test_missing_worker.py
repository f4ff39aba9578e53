"""A worker whose peers do not come says so, and can be stopped; nobody has to come first."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from configs.schema import SettingError
from training.rendezvous import wait_for_peers

pytestmark = pytest.mark.xdist_group("local workers")

ROOT = Path(__file__).parents[2]


@pytest.fixture
def addresses() -> Iterator[list[str]]:
    """Three places of this machine that the system gives nobody else meanwhile.

    Their ports are bound here and not listened on: whoever asks for one by its number and to reuse
    it, as servers do, has it all the same.
    """
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(3)]
        for one in sockets:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind(("127.0.0.1", 0))
        yield [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]


WHOLE = ["-m", "scripts.cli", "train", str(ROOT / "configs/digits_resnet50.yaml")]
WAIT_ALONE = """
import sys
from scripts.command import run_command
from training.cluster import addresses, read_task
from training.rendezvous import wait_for_peers
sys.exit(run_command(lambda _: wait_for_peers(*addresses(read_task()))))
"""


@pytest.mark.parametrize(
    ("python", "number"), [(WHOLE, signal.SIGTERM), (["-c", WAIT_ALONE], signal.SIGINT)]
)
def test_worker_that_waits_for_its_peers_names_them_and_obeys_a_signal(
    addresses, tmp_path, python, number
):
    cluster = {"cluster": {"worker": addresses[:2]}, "task": {"type": "worker", "index": 0}}
    options = ["--run", str(tmp_path / "run"), "--training.strategy=multi_worker"]
    worker = subprocess.Popen(
        [sys.executable, *python, *options],
        cwd=ROOT,
        env={**os.environ, "TF_CONFIG": json.dumps(cluster)},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert worker.stderr is not None
        waits = f"Waiting for worker 1 at {addresses[1]}."
        assert any(line.strip() == waits for line in worker.stderr)
        worker.send_signal(number)
        assert worker.wait(300) == 128 + number
        assert f"stopped by {number.name}" in worker.stderr.read()
    finally:
        worker.kill()
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_workers_find_one_another_in_any_order(addresses):
    places = {f"worker {i}": address for i, address in enumerate(addresses)}

    def joins(name: str) -> socket.socket:
        peers = {other: address for other, address in places.items() if other != name}
        wait_for_peers(places[name], peers)
        # As TensorFlow's server takes the port over, and goes on to answer on it.
        host, _, port = places[name].partition(":")
        return socket.create_server((host, int(port)))

    servers: list[socket.socket] = []
    threads = [
        threading.Thread(target=lambda name=name: servers.append(joins(name)), daemon=True)
        for name in reversed(places)
    ]
    *early, last = threads
    for thread in early:
        thread.start()
        thread.join(0.5)
    assert not servers
    last.start()
    for thread in threads:
        thread.join(300)
    assert len(servers) == 3
    for server in servers:
        server.close()


def test_port_that_is_taken_and_address_without_one_are_refused():
    with socket.create_server(("", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(SettingError, match=r"a port of this worker's own that is free"):
            wait_for_peers(address, {"worker 1": "127.0.0.1:1"})
    for address in ("b.example", "b.example:70000"):
        with pytest.raises(SettingError, match="with a port each"):
            wait_for_peers("127.0.0.1:1", {"worker 1": address})
