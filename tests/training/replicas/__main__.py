"""Prints, as one JSON line, the differences that the command line asks for."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from configs.schema import PrivacySettings
from tests.training.replicas import recipes, single_steps
from training.privacy.clip_watch import ClipWatch


def _kinds(arguments: argparse.Namespace) -> dict[str, Any]:
    steps, brief = arguments.steps, arguments.brief
    options = ("global_clipnorm",) if brief else ("clipnorm", "global_clipnorm", "clipvalue")
    return {
        **recipes.kinds(
            steps,
            {"plain": PrivacySettings(), "private": recipes.PRIVATE},
            (None,) if brief else (None, 16),
        ),
        "private, dropout": recipes.dropout(),
        **recipes.bounded_updates(steps, options),
    }


def _clipping(arguments: argparse.Namespace) -> dict[str, Any]:
    watches = [ClipWatch("ward", 2, share) for share in (None, 0.1)]
    return {
        **recipes.adaptive(),
        "watched": max(map(single_steps.watched, watches)),
        "sensitivity": {m.method: single_steps.sensitivity(m) for m in single_steps.METHODS},
    }


def _float16(arguments: argparse.Namespace) -> dict[str, Any]:
    return {"plain": recipes.float16(arguments.steps), "overflow": single_steps.overflow()}


# Each in a process of its own: collectives of other shapes may not follow in one.
_ANSWERS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "kinds": _kinds,
    "clipping": _clipping,
    "noiseless": lambda arguments: recipes.noiseless(arguments.steps),
    "users": lambda arguments: recipes.users(physical=2 * 3 * arguments.replicas),
    "groups": lambda arguments: recipes.groups(arguments.steps, 3),
    "float16": _float16,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=tuple(_ANSWERS))
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--brief", action="store_true", help="fewer kinds")
    arguments = parser.parse_args()
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * arguments.replicas
    )
    print(json.dumps(_ANSWERS[arguments.what](arguments)))


if __name__ == "__main__":
    main()
