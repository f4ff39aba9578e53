"""Fairness of a million predictions in twenty groups: seconds and memory, in a process of its own.

    python -m benchmarks.fairness_metrics
    python -m benchmarks.fairness_metrics --predictions 10000000 --groups 20 --json

Predictions are made batch by batch and thrown away, as a stream's are; making them is not timed.
Memory is the process's own high-water mark over what it was when everything was imported.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np

_BATCH = 65_536


def main() -> None:
    """Measures in a fresh process and prints the result; exits with 1 if a bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--predictions", type=int, default=1_000_000)
    parser.add_argument("--groups", type=int, default=20)
    parser.add_argument("--most-seconds", type=float, default=10.0)
    parser.add_argument("--most-megabytes", type=float, default=500.0)
    parser.add_argument("--json", action="store_true", help="Print JSON only.")
    parser.add_argument("--in-this-process", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.in_this_process:
        print(json.dumps(_measure(arguments.predictions, arguments.groups)))
        return
    command = [sys.executable, "-m", "benchmarks.fairness_metrics", "--in-this-process"]
    command += ["--predictions", str(arguments.predictions), "--groups", str(arguments.groups)]
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(finished.stdout.splitlines()[-1])
    if arguments.json:
        print(json.dumps(found))
    else:
        print(
            f"{found['predictions']:,} predictions x {found['groups']} groups: "
            f"{found['seconds']:.2f} s ({found['cpu_seconds']:.2f} s of CPU: "
            f"{found['update_seconds']:.2f} s of updates, {found['measure_seconds']:.2f} s of "
            f"measuring), {found['megabytes_over_baseline']:.0f} MB over "
            f"{found['baseline_megabytes']:.0f} MB"
        )
    slow = found["seconds"] > arguments.most_seconds
    large = found["megabytes_over_baseline"] > arguments.most_megabytes
    sys.exit(1 if slow or large else 0)


def _measure(predictions: int, groups: int) -> dict[str, float]:
    import sklearn.metrics  # noqa: F401, part of the baseline

    from evaluation.fairness.streaming import StreamingFairness

    names = {"group": [f"group {index}" for index in range(groups)]}
    stream = StreamingFairness(("no", "yes"), names)
    baseline = _peak_megabytes()
    update_seconds = cpu_seconds = 0.0
    for logits, labels, of_group in _batches(predictions, groups):
        started, used = time.perf_counter(), time.process_time()
        stream.update(logits, labels, {"group": of_group})
        update_seconds += time.perf_counter() - started
        cpu_seconds += time.process_time() - used
    started, used = time.perf_counter(), time.process_time()
    measured = stream.measure()
    measure_seconds = time.perf_counter() - started
    cpu_seconds += time.process_time() - used
    counted = sum(g["count"] for g in measured["attributes"]["group"]["groups"].values())
    assert counted == predictions
    return {
        "predictions": predictions,
        "groups": groups,
        "seconds": update_seconds + measure_seconds,
        "update_seconds": update_seconds,
        "measure_seconds": measure_seconds,
        "cpu_seconds": cpu_seconds,
        "baseline_megabytes": baseline,
        "megabytes_over_baseline": _peak_megabytes() - baseline,
    }


def _batches(predictions: int, groups: int) -> Iterator[tuple[np.ndarray, ...]]:
    rng = np.random.default_rng(0)
    for start in range(0, predictions, _BATCH):
        size = min(_BATCH, predictions - start)
        labels = rng.integers(0, 2, size)
        of_group = rng.integers(0, groups, size)
        logits = rng.normal(size=(size, 2)).astype(np.float32)
        logits[:, 1] += labels + 0.05 * of_group
        yield logits, labels, of_group


def _peak_megabytes() -> float:
    # ru_maxrss counts kilobytes on Linux, bytes on macOS.
    unit = 1e6 if sys.platform == "darwin" else 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


if __name__ == "__main__":
    main()
