"""What TF_CONFIG says of this process, read and checked before TensorFlow trips over it.

Every worker of a run is told its peers and its own place among them by this variable; see
https://www.tensorflow.org/guide/distributed_training (setting up TF_CONFIG).
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass

from configs.schema import SettingError

VARIABLE = "TF_CONFIG"
_KINDS = ("chief", "worker")


@dataclass(frozen=True)
class Task:
    """A process's place in its cluster.

    Attributes:
        kind: `chief` or `worker`.
        index: Which of its kind, from 0.
        is_first: Whether it is the one that writes: the chief, or worker 0 where none is named.
    """

    kind: str
    index: int
    is_first: bool


def task_under(strategy: str) -> Task | None:
    """This process's place in a run of `training.strategy: STRATEGY`; None without a cluster.

    A process that was told of a cluster and trains on its own devices alone is no part of it.

    Raises:
        SettingError: If the variable that should say so cannot be used.
    """
    joins = strategy == "multi_worker" or (strategy == "auto" and not os.environ.get("TPU_NAME"))
    return read_task() if joins else None


def read_task() -> Task | None:
    """This process's place in the cluster of TF_CONFIG; None where that names none.

    Raises:
        SettingError: If it cannot be used.
    """
    text = os.environ.get(VARIABLE) or "{}"
    try:
        document = json.loads(text)
        cluster = document.get("cluster")
        if not cluster:
            return None
        members = {kind: len(list(addresses)) for kind, addresses in cluster.items()}
        task = document["task"]
        kind, index = task["type"], int(task["index"])
        known = kind in _KINDS and 0 <= index < members[kind]
    except (ValueError, AttributeError, KeyError, TypeError):
        known = False
    if not known:
        raise SettingError(
            VARIABLE,
            text,
            'JSON such as {"cluster": {"worker": ["a.example:2222", "b.example:2222"]}, "task": '
            '{"type": "worker", "index": 0}}, whose task is a chief or a worker of its cluster',
        )
    return Task(kind, index, kind == "chief" or ("chief" not in members and index == 0))


def addresses(task: Task) -> tuple[str, dict[str, str]]:
    """A task's own address, and those of the others that train with it, by name (`worker 1`).

    Args:
        task: From `read_task`, of the variable as it is.
    """
    cluster = json.loads(os.environ[VARIABLE])["cluster"]
    named = {
        (kind, index): str(address)
        for kind in _KINDS
        for index, address in enumerate(cluster.get(kind, ()))
    }
    mine = named.pop((task.kind, task.index))
    return mine, {f"{kind} {index}": address for (kind, index), address in named.items()}
