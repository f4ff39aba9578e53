"""Whether cost grows linearly: step time over batch size, and over logical batch size.

    python -m benchmarks.slopes --model bert --size 64
    python -m benchmarks.slopes --model resnet50 --size 64 --batches 8 16 32 --accumulate 1 2 4
    python -m benchmarks.slopes --model bert --size 16 --memory --batches 32 --accumulate 1 8 32 128

Two lines for each kind of step: physical batches of several sizes, and logical batches made of
several physical ones. The log-log slope is that of the fastest of the repeats, by least squares;
1 is linear, less than 1 says that a part of the step (noise, optimizer) does not grow at all.

With `--memory`, in place of times: peak memory at each logical batch, of a process that takes
one private step of this logical batch and nothing else.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.dp_step import own_peak_gb
from benchmarks.workloads import MODELS, Workload


def log_log_slope(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """Least-squares slope of log(seconds) over log(sizes): the power with which cost grows.

    Raises:
        ValueError: Fewer than two different sizes.
    """
    xs, ys = [math.log(x) for x in sizes], [math.log(y) for y in seconds]
    if len(set(xs)) < 2:
        raise ValueError(f"A slope needs two different sizes. Received: sizes={list(sizes)}")
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    covariance = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True))
    return covariance / sum((x - mean_x) ** 2 for x in xs)


def _fastest(run: Callable[[], None], repeats: int) -> float:
    run()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _line(points: dict[int, float]) -> dict[str, Any]:
    return {
        "points": [{"examples": size, "s": seconds} for size, seconds in points.items()],
        "slope": log_log_slope(list(points), list(points.values())),
    }


def measure(
    model: str, size: int, batches: Sequence[int], accumulate: Sequence[int], repeats: int
) -> dict[str, Any]:
    """Times both kinds of step over both kinds of growth.

    Args:
        model: "bert" or "resnet50".
        size: Tokens, or pixels a side.
        batches: Sizes of the physical batch.
        accumulate: How many physical batches, of the smallest size, make a logical one.
        repeats: Timed steps of each kind; the fastest counts.
    """
    built = Workload(model, batches[0], size).build()
    lines: dict[str, Any] = {}
    for mode in ("plain", "private"):
        by_batch = {
            batch: _fastest(Workload(model, batch, size).stepper(mode, built), repeats)
            for batch in batches
        }
        smallest = min(batches)
        by_logical_batch = {
            count * smallest: _fastest(
                Workload(model, smallest, size).stepper(mode, built, count), repeats
            )
            for count in accumulate
        }
        lines[mode] = {"batch": _line(by_batch), "logical_batch": _line(by_logical_batch)}
    return {"model": model, "size": size, "repeats": repeats, **lines}


def peak_memory(model: str, size: int, batch: int, accumulate: Sequence[int]) -> dict[str, Any]:
    """Peak memory over the logical batch, at one physical batch: a process for each point.

    Args:
        model: "bert" or "resnet50".
        size: Tokens, or pixels a side.
        batch: Examples in a physical batch.
        accumulate: How many physical batches make a logical one, at each point.

    Returns:
        `points`, each with `examples` and `peak_gb`, and `growth`, the largest peak over the
        smallest.

    Raises:
        subprocess.CalledProcessError: A point's process failed.
    """
    points = []
    for count in accumulate:
        command = [
            *(sys.executable, "-m", "benchmarks.slopes", "--memory-of", str(count)),
            *("--model", model, "--size", str(size), "--batches", str(batch)),
        ]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        points.append({"examples": count * batch, "peak_gb": float(done.stdout.splitlines()[-1])})
    peaks = [point["peak_gb"] for point in points]
    growth = max(peaks) / min(peaks)
    return {"model": model, "size": size, "batch": batch, "points": points, "growth": growth}


def _peak_of_one_step(model: str, size: int, batch: int, count: int) -> float:
    """Peak memory of this process after one private step of `count` physical batches, in GB."""
    from training.randomness import Randomness

    workload = Workload(model, batch, size)
    built = workload.build()
    examples = workload.examples(built)
    # The accumulators are there even for one physical batch, as in a run whose draws vary, so
    # that points differ by the logical batch alone.
    step = workload.step("private", built, max(count, 2))
    for _ in range(count - 1):
        step.add(examples)
    step.finish(examples, step.draws(0, Randomness.from_seed(1)), accumulated=count > 1)
    return own_peak_gb()


def _sizes(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a number >= 1, got {text}")
    return value


def _print_memory(arguments: argparse.Namespace) -> None:
    of = (arguments.model, arguments.size, min(arguments.batches))
    if arguments.memory_of:
        print(_peak_of_one_step(*of, arguments.memory_of))
        return
    result = peak_memory(*of, arguments.accumulate)
    if arguments.json:
        print(json.dumps(result))
        return
    for point in result["points"]:
        print(f"logical batch {point['examples']:6}   peak {point['peak_gb']:.3f} GB")
    print(f"largest over smallest {result['growth']:.3f}")


def main() -> None:
    """Prints slopes and points, as text or as one JSON line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.slopes", description=__doc__)
    parser.add_argument("--model", choices=MODELS, required=True)
    parser.add_argument("--size", type=_sizes, default=64, help="tokens, or pixels a side")
    parser.add_argument("--batches", type=_sizes, nargs="+", default=[8, 16, 32, 64])
    parser.add_argument("--accumulate", type=_sizes, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--repeats", type=_sizes, default=3, help="timed steps at each point")
    parser.add_argument("--json", action="store_true", help="print one JSON line")
    parser.add_argument("--memory", action="store_true", help="peak memory in place of times")
    parser.add_argument("--memory-of", type=_sizes, default=None, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of or arguments.memory:
        _print_memory(arguments)
        return
    if len(set(arguments.batches)) < 2 or len(set(arguments.accumulate)) < 2:
        parser.error("--batches and --accumulate take at least two different numbers each")
    result = measure(
        arguments.model,
        arguments.size,
        arguments.batches,
        arguments.accumulate,
        arguments.repeats,
    )
    if arguments.json:
        print(json.dumps(result))
        return
    for mode in ("plain", "private"):
        for growth, line in result[mode].items():
            points = ", ".join(f"{p['examples']}: {p['s']:.3f} s" for p in line["points"])
            print(f"{mode:8} over {growth:14} slope {line['slope']:.2f}   {points}")


if __name__ == "__main__":
    main()
