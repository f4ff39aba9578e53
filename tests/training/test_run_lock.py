"""One process to a run directory; a process that is gone holds nothing."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from configs.schema import UserError
from training.cluster import Task
from training.files import path_of
from training.run_directory import RunDirectory
from training.run_lock import RunLock

HOLD = """
import sys
from pathlib import Path
from training.run_lock import RunLock
with RunLock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of `tmp_path`."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_second_process_is_refused_by_the_name_of_the_first(tmp_path, holder):
    who = f"process {holder.pid} on {socket.gethostname()} is working on this run"
    with pytest.raises(UserError, match=who), RunLock(tmp_path):
        pass
    # Having been refused, it has taken nothing away.
    with pytest.raises(UserError, match=who), RunLock(tmp_path):
        pass


def test_lock_of_a_killed_process_does_not_block(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / ".lock").exists()
    with RunLock(tmp_path) as lock:
        assert lock.held
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()
    assert not list(tmp_path.iterdir())


def test_lock_of_a_directory_to_come_is_taken_when_it_is_made(tmp_path):
    run = RunDirectory(tmp_path / "run")
    with RunLock(run.root) as lock:
        assert not run.root.exists()
        run.open("a: 1\n", lock)
        with pytest.raises(UserError, match="is working on this run"), RunLock(run.root):
            pass
    assert [path.name for path in run.root.iterdir()] == ["config.yaml"]


def test_run_begun_by_another_process_meanwhile_is_left_to_it(tmp_path):
    run = RunDirectory(tmp_path / "run")
    with RunLock(run.root) as lock:
        with RunLock(run.root) as other:
            run.open("a: 1\n", other)
        with pytest.raises(UserError, match="another process began this run meanwhile"):
            run.open("a: 1\n", lock)


def test_directory_of_a_process_killed_before_its_run_began_is_no_foreign_one(tmp_path):
    (tmp_path / ".lock").write_text("")
    (tmp_path / ".config.yaml.1.partial").write_text("a:")
    run = RunDirectory(tmp_path)
    with RunLock(tmp_path) as lock:
        run.open("a: 1\n", lock)
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_workers_of_a_cluster_hold_a_lock_each(tmp_path):
    with RunLock(tmp_path, Task("worker", 0, is_first=True)):
        with RunLock(tmp_path, Task("worker", 1, is_first=False)) as second:
            assert second.held
        with (
            pytest.raises(UserError, match="is working on this run"),
            RunLock(tmp_path, Task("worker", 0, is_first=True)),
        ):
            pass
        with pytest.raises(UserError, match="is working on this run"), RunLock(tmp_path):
            pass


def test_lock_in_an_object_store(tmp_path):
    root = path_of(f"memory://{tmp_path}")
    (root / "config.yaml").write_text("a: 1\n")
    with RunLock(root) as lock:
        assert lock.held
        with pytest.raises(UserError, match=r"If that process is gone, delete memory://.*\.lock"):
            RunLock(root).acquire()
    assert [path.name for path in root.iterdir()] == ["config.yaml"]


def test_lock_in_an_object_store_of_a_process_that_is_gone_is_taken_over(tmp_path):
    root = path_of(f"memory://{tmp_path}")
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    holder = {"pid": ended.pid, "host": socket.gethostname()}
    (root / ".lock").write_text(json.dumps(holder))
    with RunLock(root) as lock:
        assert lock.held
    (root / ".lock").write_text(json.dumps({**holder, "host": "elsewhere"}))
    with pytest.raises(UserError, match=f"process {ended.pid} on elsewhere"), RunLock(root):
        pass
