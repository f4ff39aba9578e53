"""Whether cost grows linearly: step time over batch size, and over logical batch size.

    python -m benchmarks.slopes --model bert --size 64
    python -m benchmarks.slopes --model resnet50 --size 64 --batches 8 16 32 --accumulate 1 2 4

Two lines for each kind of step: physical batches of several sizes, and logical batches made of
several physical ones. The log-log slope is that of the fastest of the repeats, by least squares;
1 is linear, less than 1 says that a part of the step (noise, optimizer) does not grow at all.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

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


def _sizes(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a number >= 1, got {text}")
    return value


def main() -> None:
    """Prints slopes and points, as text or as one JSON line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.slopes", description=__doc__)
    parser.add_argument("--model", choices=MODELS, required=True)
    parser.add_argument("--size", type=_sizes, default=64, help="tokens, or pixels a side")
    parser.add_argument("--batches", type=_sizes, nargs="+", default=[8, 16, 32, 64])
    parser.add_argument("--accumulate", type=_sizes, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--repeats", type=_sizes, default=3, help="timed steps at each point")
    parser.add_argument("--json", action="store_true", help="print one JSON line")
    arguments = parser.parse_args()
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
