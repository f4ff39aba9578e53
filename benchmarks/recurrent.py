"""What the rules of recurrent layers save: plain gradients, clipped by rule, clipped by fallback.

    python -m benchmarks.recurrent --layer lstm --batch 32 --time 64 --units 128
    python -m benchmarks.recurrent --layer bidirectional_gru --memory
    python -m benchmarks.recurrent --dropout 0.2 --recurrent-dropout 0.2

An embedding, the layer and a softmax. The gradient alone is timed (no noise, no optimizer), all
sides in one process, by turns; the clipped sums of both private sides are compared. With
`--memory`, each side's peak in a process of its own. Dropout inside the layer has no fallback.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

LAYERS = ("lstm", "bidirectional_gru", "simple_rnn")
SIDES = ("plain", "rule", "fallback")
_WORDS, _CLASSES = 2000, 3


def build(layer: str, words: int, units: int, **dropout: float) -> Any:
    """The classifier of `words` tokens."""
    import keras

    keras.utils.set_random_seed(0)
    make: dict[str, Callable[[], keras.Layer]] = {
        "lstm": lambda: keras.layers.LSTM(units, **dropout),
        "bidirectional_gru": lambda: keras.layers.Bidirectional(keras.layers.GRU(units, **dropout)),
        "simple_rnn": lambda: keras.layers.SimpleRNN(units, **dropout),
    }
    ids = keras.Input((words,), dtype="int32")
    hidden = make[layer]()(keras.layers.Embedding(_WORDS, units)(ids))
    return keras.Model(ids, keras.layers.Dense(_CLASSES)(hidden))


@contextmanager
def only_fallback() -> Iterator[None]:
    """Takes the recurrent layers' own rules out of the registry."""
    from training.privacy.rules import RULES
    from training.privacy.rules.fallback import WholeLayerRule

    own = {key: RULES[key] for key in (("keras", name) for name in ("LSTM", "GRU", "SimpleRNN"))}
    RULES.update({key: (WholeLayerRule(),) for key in own})
    try:
        yield
    finally:
        RULES.update(own)


def traced(side: str, model: Any, batch: dict[str, Any]) -> Callable[[], list[Any]]:
    """The gradients of one side, as a graph made here."""
    import tensorflow as tf

    from training.losses import cross_entropy
    from training.privacy.clipping import clipped_gradient_sum

    loss = cross_entropy([str(i) for i in range(_CLASSES)])

    @tf.function(autograph=False)
    def plain(batch: dict[str, Any]) -> list[Any]:
        with tf.GradientTape() as tape:
            losses = loss(batch["labels"], model(batch["inputs"], training=True))
            total = tf.reduce_sum(losses)
        found = tape.gradient(total, [v.value for v in model.trainable_variables])
        return [tf.convert_to_tensor(gradient) for gradient in found]

    @tf.function(autograph=False)
    def private(batch: dict[str, Any]) -> list[Any]:
        return clipped_gradient_sum(model, loss, batch, 0.1).gradients

    graph = (plain if side == "plain" else private).get_concrete_function(batch)
    return lambda: [gradient.numpy() for gradient in graph(batch)]


def measure(arguments: argparse.Namespace, sides: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """Seconds to trace, milliseconds of processor and of the clock a step, for each side."""
    import numpy as np
    import tensorflow as tf

    dropout = {name: getattr(arguments, name) for name in ("dropout", "recurrent_dropout")}
    model = build(arguments.layer, arguments.time, arguments.units, **dropout)
    rng = np.random.default_rng(0)
    shape = (arguments.batch, arguments.time)
    batch = {
        "inputs": tf.constant(rng.integers(0, _WORDS, shape), tf.int32),
        "labels": tf.constant(rng.integers(0, _CLASSES, arguments.batch), tf.int32),
        "mask": tf.ones([arguments.batch], tf.bool),
    }
    rows: dict[str, dict[str, float]] = {}
    runs: dict[str, Callable[[], list[Any]]] = {}
    traced("plain", model, batch)  # what the first trace of a process takes is no side's
    for side in sides:
        start = time.perf_counter()
        if side == "fallback":
            with only_fallback():
                runs[side] = traced(side, model, batch)
        else:
            runs[side] = traced(side, model, batch)
        rows[side] = {"trace s": time.perf_counter() - start}
    sums = {side: np.concatenate([x.ravel() for x in run()]) for side, run in runs.items()}
    if "rule" in sums and "fallback" in sums:
        difference = np.linalg.norm(sums["rule"] - sums["fallback"])
        rows["rule"]["difference"] = float(difference / np.linalg.norm(sums["fallback"]))
    spent: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
    for _ in range(arguments.repeats):
        for side, run in runs.items():
            clock, processor = time.perf_counter(), time.process_time()
            run()
            spent[side].append((time.perf_counter() - clock, time.process_time() - processor))
    for side, times in spent.items():
        for i, name in enumerate(("clock", "processor")):
            rows[side][f"{name} ms"] = 1e3 * statistics.median(pair[i] for pair in times)
            if "plain" in spent:
                ratios = [pair[i] / own[i] for pair, own in zip(times, spent["plain"], strict=True)]
                rows[side][f"{name} / plain"] = statistics.median(ratios)
    return rows


def _peak_gb(side: str, arguments: argparse.Namespace) -> float:
    command = [
        *(sys.executable, "-m", "benchmarks.recurrent", "--only", side),
        *("--layer", arguments.layer, "--batch", str(arguments.batch), "--repeats", "2"),
        *("--time", str(arguments.time), "--units", str(arguments.units)),
        *("--dropout", str(arguments.dropout)),
        *("--recurrent-dropout", str(arguments.recurrent_dropout)),
    ]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.splitlines()[-1])


def main() -> None:
    """Prints a line a side."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.recurrent",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--layer", choices=LAYERS, default="lstm")
    parser.add_argument("--batch", type=int, default=32, help="examples")
    parser.add_argument("--time", type=int, default=64, help="words of an example")
    parser.add_argument("--units", type=int, default=128)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--recurrent-dropout", type=float, default=0.0)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--memory", action="store_true", help="peaks, each side by itself")
    parser.add_argument("--only", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    drops = arguments.dropout or arguments.recurrent_dropout
    sides = tuple(side for side in SIDES if side != "fallback") if drops else SIDES
    rows = measure(arguments, (arguments.only,) if arguments.only else sides)
    if arguments.only:
        from benchmarks.dp_step import own_peak_gb

        print(own_peak_gb())
        return
    for side, row in rows.items():
        if arguments.memory:
            row["peak GB"] = _peak_gb(side, arguments)
        print(f"{side:<10}" + "  ".join(f"{name} {value:.3g}" for name, value in row.items()))


if __name__ == "__main__":
    main()
