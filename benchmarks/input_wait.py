"""How long a short step waits for its batch: a private head on cached features.

    python -m benchmarks.input_wait                # the census demo's sizes; half a minute
    python -m benchmarks.input_wait --steps 300 --batch 512 --json

The shape of `configs/census_bert_private.yaml` once everybody has passed the frozen encoder:
vectors in memory, Poisson batches, one dense layer trained with DP-SGD, a line in the ledger before
every step. The outer loop and all it is given are those of `sterling train`, less the callbacks;
only the vectors are random. The share is `efficiency.input_wait_share`.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def _examples(people: int, width: int) -> Any:
    """A prepared split of random vectors held in memory, with the census's groups."""
    import numpy as np

    from data import PreparedSplit
    from data.assembly import EncodedSplit
    from data.columns import MemoryColumn
    from data.contracts import DatasetInfo, Provenance

    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(people, width)).astype(np.float32)
    values = {"sex": 2, "race": 5}
    info = DatasetInfo(
        name="random vectors",
        modality="features",
        label_names=("0", "1"),
        groups={name: tuple(map(str, range(count))) for name, count in values.items()},
        provenance=Provenance("numpy"),
        input_shape=(width,),
    )
    split = EncodedSplit(
        name="train",
        info=info,
        raw=MemoryColumn(vectors),
        labels=rng.integers(0, 2, people).astype(np.int32),
        groups={n: rng.integers(0, count, people).astype(np.int32) for n, count in values.items()},
    )
    return PreparedSplit(split, lambda raw: {"features": raw}, {"features": vectors})


def _loop(people: int, width: int, batch: int, steps: int, directory: Path) -> Any:
    import keras
    import tensorflow as tf

    from configs.schema import TrainingSettings
    from training.batching import Batching
    from training.checkpoints import Checkpoints
    from training.drawing import physical_size
    from training.feeding import ReplicaFeed
    from training.length import run_length
    from training.loop import Loop
    from training.losses import cross_entropy
    from training.privacy.ledger import Ledger
    from training.privacy.plan import PrivacyPlan
    from training.randomness import Randomness
    from training.steps import PrivateStep

    settings = TrainingSettings(steps=steps, batch_size=batch)
    plan = PrivacyPlan.dp_sgd(
        num_examples=people,
        batch_size=batch,
        steps=steps,
        clipping_norm=4.5,
        noise_multiplier=2.0,
        delta=1e-6,
    )
    randomness = Randomness.from_seed(0, "input wait")
    inputs = keras.Input((width,), name="features")
    model = keras.Model({"features": inputs}, keras.layers.Dense(2, name="logits")(inputs))
    optimizer = keras.optimizers.Adam(0.06)
    strategy = tf.distribute.get_strategy()
    step = PrivateStep(
        model, cross_entropy(["0", "1"]), optimizer, strategy, plan=plan, accumulates=True
    )
    size = physical_size(settings, private=True, examples=people, replicas=1)
    batching = Batching(plan.sampler(randomness), size)
    feed = ReplicaFeed(_examples(people, width), batching, strategy)
    step.trace(feed.element_spec)
    return Loop(
        model=model,
        step=step,
        length=run_length(settings, people),
        batching=batching,
        feed=feed,
        randomness=randomness,
        checkpoints=Checkpoints(directory / "checkpoints", model, optimizer, 1, step.state),
        ledger=Ledger(directory / "ledger.jsonl", plan),
        verbose=0,
    )


def measure(people: int, width: int, batch: int, steps: int, pipeline: bool) -> dict[str, float]:
    """Milliseconds of a step, checkpoints included, and its share of waiting for a batch."""
    with tempfile.TemporaryDirectory() as directory:
        loop = _loop(people, width, batch, steps, Path(directory))
        loop.feed = loop.feed if pipeline else loop.feed.ahead
        start = time.perf_counter()
        loop.run()
        milliseconds = 1e3 * (time.perf_counter() - start) / steps
    return {"milliseconds": milliseconds, "input_wait_share": loop.clock.input_wait_share}


def main() -> None:
    """Prints the figures, as text or as one JSON line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.input_wait", description=__doc__)
    parser.add_argument("--people", type=int, default=29_305, help="training examples")
    parser.add_argument("--width", type=int, default=384, help="numbers of a vector")
    parser.add_argument("--batch", type=int, default=2048, help="expected examples of a step")
    parser.add_argument("--steps", type=int, default=600, help="steps of a run")
    parser.add_argument("--repeats", type=int, default=3, help="runs")
    parser.add_argument("--pipeline", action="store_true", help="take batches from tf.data itself")
    parser.add_argument("--json", action="store_true", help="print one JSON line a run")
    arguments = parser.parse_args()
    for _ in range(arguments.repeats):
        found = measure(
            arguments.people,
            arguments.width,
            arguments.batch,
            arguments.steps,
            arguments.pipeline,
        )
        if arguments.json:
            print(json.dumps(found))
        else:
            print(
                f"{found['milliseconds']:.2f} ms a step, of which it waited "
                f"{found['input_wait_share']:.1%} for input"
            )


if __name__ == "__main__":
    main()
