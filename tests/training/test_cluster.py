"""TF_CONFIG is read once, says who writes, and is refused in one line where it says nothing."""

from __future__ import annotations

import json

import pytest

from configs.schema import SettingError
from training.cluster import Task, read_task, task_under

TWO = {"worker": ["a:1", "b:1"]}


def tell(monkeypatch, cluster, kind, index) -> None:
    document = {"cluster": cluster, "task": {"type": kind, "index": index}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(document))
    monkeypatch.delenv("TPU_NAME", raising=False)


@pytest.mark.parametrize(
    ("cluster", "kind", "index", "is_first"),
    [
        (TWO, "worker", 0, True),
        (TWO, "worker", 1, False),
        ({"chief": ["c:1"], **TWO}, "chief", 0, True),
        ({"chief": ["c:1"], **TWO}, "worker", 0, False),
    ],
)
def test_one_of_a_cluster_writes(monkeypatch, cluster, kind, index, is_first):
    tell(monkeypatch, cluster, kind, index)
    assert task_under("auto") == task_under("multi_worker") == Task(kind, index, is_first)


def test_who_trains_alone_is_no_part_of_a_cluster(monkeypatch):
    tell(monkeypatch, TWO, "worker", 1)
    assert task_under("one_device") is None
    assert task_under("mirrored") is None
    monkeypatch.setenv("TPU_NAME", "local")
    assert task_under("auto") is None


@pytest.mark.parametrize("text", ["", "{}", '{"task": {"type": "worker", "index": 0}}'])
def test_without_peers_there_is_no_cluster(monkeypatch, text):
    monkeypatch.setenv("TF_CONFIG", text)
    assert read_task() is None


@pytest.mark.parametrize(
    "text",
    [
        "{bad",
        "[]",
        '{"cluster": {"worker": ["a:1"]}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": -1}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "chief", "index": 0}}',
        '{"cluster": {"worker": ["a:1"], "ps": ["b:1"]}, "task": {"type": "ps", "index": 0}}',
        '{"cluster": ["a:1"], "task": {"type": "worker", "index": 0}}',
    ],
)
def test_what_names_no_place_is_refused(monkeypatch, text):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(SettingError, match="TF_CONFIG: expected JSON such as"):
        read_task()
