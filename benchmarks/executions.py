"""What it gains to take several optimizer steps in one call, on a model whose steps are short.

    python -m benchmarks.executions                        # under a minute on 2 cores
    python -m benchmarks.executions --per-call 1 8 64 --json

An mlp on images of 8 x 8 pixels, steps of one physical batch. Each kind of call takes its turn in
one process, and the fastest turn of each counts: how much a step costs beside its arithmetic. On a
model whose steps take longer the same milliseconds are saved, and are less of them.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

_STEPS = 64  # of a turn
_SIZE = 8  # pixels a side
_CLASSES = 10


def _step(private: bool, batch: int, per_call: int) -> Any:
    import keras
    import tensorflow as tf

    from configs.schema import MlpSettings, ModelSettings
    from models import build
    from training.losses import cross_entropy
    from training.privacy.plan import PrivacyPlan
    from training.steps import PlainStep, PrivateStep

    mlp = MlpSettings(hidden_units=[64], image_size=_SIZE)
    built = build(
        ModelSettings(name="mlp", mlp=mlp),
        num_classes=_CLASSES,
        modality="image",
        input_shape=(_SIZE, _SIZE, 3),
        seed=0,
    )
    loss = cross_entropy([str(i) for i in range(_CLASSES)])
    parts = (built.model, loss, keras.optimizers.Adam(1e-4), tf.distribute.get_strategy())
    common: dict[str, Any] = {"accumulates": False, "steps_per_execution": per_call}
    if not private:
        return PlainStep(*parts, **common)
    plan = PrivacyPlan.dp_sgd(
        num_examples=10**6,
        batch_size=batch,
        steps=1000,
        clipping_norm=1.0,
        noise_multiplier=1.0,
        delta=1e-7,
    )
    return PrivateStep(*parts, plan=plan, **common)


def _turn(private: bool, batch: int, per_call: int) -> Callable[[], None]:
    """A function that takes `_STEPS` steps, `per_call` at a time, drawing noise for each."""
    import numpy as np
    import tensorflow as tf

    from training.randomness import Randomness

    step = _step(private, batch, per_call)
    rng = np.random.default_rng(0)
    (name,) = step._model.input
    examples = {
        "inputs": {name: tf.constant(rng.normal(size=(batch, _SIZE, _SIZE, 3)), tf.float32)},
        "labels": tf.constant(rng.integers(0, _CLASSES, batch), tf.int32),
        "mask": tf.ones([batch], tf.bool),
    }
    batches = iter(tf.data.Dataset.from_tensors(examples).repeat())
    randomness, numbers = Randomness.from_seed(0), itertools.count()

    def run() -> None:
        for _ in range(_STEPS // per_call):
            draws = [step.draws(next(numbers), randomness) for _ in range(per_call)]
            if per_call == 1:
                step.finish(next(batches), draws[0], accumulated=False)
            else:
                step.take_group(batches, draws, [1] * per_call)

    return run


def measure(batch: int, per_call: Sequence[int], repeats: int) -> dict[str, dict[int, float]]:
    """Milliseconds of a step by kind and by steps in a call."""
    found = {}
    for kind, private in (("plain", False), ("private", True)):
        runs = {count: _turn(private, batch, count) for count in per_call}
        taken: dict[int, list[float]] = {count: [] for count in per_call}
        for run in runs.values():
            run()  # compiles
        for _ in range(repeats):
            for count, run in runs.items():
                start = time.perf_counter()
                run()
                taken[count].append(time.perf_counter() - start)
        found[kind] = {count: 1e3 * min(seconds) / _STEPS for count, seconds in taken.items()}
    return found


def main() -> None:
    """Prints the figures, as text or as one JSON line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.executions", description=__doc__)
    parser.add_argument("--batch", type=int, default=32, help="examples of a step")
    parser.add_argument(
        "--per-call",
        type=int,
        nargs="+",
        default=[1, 4, 16, 64],
        choices=[1, 2, 4, 8, 16, 32, 64],
        help="steps in a call",
    )
    parser.add_argument("--repeats", type=int, default=15, help="timed turns of each")
    parser.add_argument("--json", action="store_true", help="print one JSON line")
    arguments = parser.parse_args()
    found = measure(arguments.batch, arguments.per_call, arguments.repeats)
    if arguments.json:
        print(json.dumps(found))
        return
    for kind, by_count in found.items():
        first = next(iter(by_count.values()))
        for count, milliseconds in by_count.items():
            print(
                f"{kind:8} {count:3} steps a call: {milliseconds:.3f} ms a step, "
                f"{first / milliseconds:.2f} times as fast"
            )


if __name__ == "__main__":
    main()
