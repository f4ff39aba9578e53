"""What privacy costs: a full private step against a full plain step, alternating in one process.

    python -m benchmarks.dp_step --model bert --batch 32 --size 128
    python -m benchmarks.dp_step --model resnet50 --batch 32 --size 64 --json
    python -m benchmarks.dp_step --model bert --mode private --json
    python -m benchmarks.dp_step --model bert --profile --explain

A step is forward, backward, clipping, noise and optimizer, on one fixed batch, until the device
has done it. Timings on shared machines wander, so both sides alternate and the ratio is of medians,
with its quartiles; ratios of minima and of processor time stand beside. Peak memory is that of a
process which only ever ran the one kind of step: the GPU's, where one is used.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.operations import print_profile
from benchmarks.workloads import MODELS, MODES, Workload


def _workload(arguments: argparse.Namespace) -> Workload:
    return Workload(
        arguments.model,
        arguments.batch,
        arguments.size,
        arguments.xla,
        arguments.memory_budget,
        arguments.precision,
    )


def _peak_gb(mode: str, arguments: argparse.Namespace) -> float:
    """Peak memory of a process that runs only `mode`, in GB."""
    budget = arguments.memory_budget
    command = [
        *(sys.executable, "-m", "benchmarks.dp_step", "--memory-of", mode),
        *("--model", arguments.model, "--batch", str(arguments.batch)),
        *("--size", str(arguments.size), "--precision", arguments.precision),
        *(["--xla"] if arguments.xla else []),
        *(["--memory-budget", str(budget)] if budget is not None else []),
    ]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def own_peak_gb() -> float:
    """Peak memory of this process, on its GPU if it has one.

    Not `ru_maxrss`, which would include the parent's before exec.
    """
    import tensorflow as tf

    if tf.config.list_logical_devices("GPU"):
        return float(tf.config.experimental.get_memory_info("GPU:0")["peak"]) / 1e9
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return float(line.split()[1]) / 1e6
    raise OSError("/proc/self/status has no VmHWM: peak memory is measured on Linux only")


def _device() -> str:
    """What the steps run on."""
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return "CPU"
    return str(tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU"))


def _measure(arguments: argparse.Namespace) -> dict[str, Any]:
    workload = _workload(arguments)
    built = workload.build()
    modes = modes_of(arguments)
    # Each kind trains its own copy of nothing: weights are shared, and a step's cost does not
    # depend on their values.
    steps = {mode: workload.stepper(mode, built) for mode in modes}
    for step in steps.values():
        step()
        step()
    seconds: dict[str, list[float]] = {mode: [] for mode in modes}
    cpu: dict[str, list[float]] = {mode: [] for mode in modes}
    for _ in range(arguments.repeats):
        for mode, step in steps.items():
            start, start_cpu = time.perf_counter(), time.process_time()
            step()
            seconds[mode].append(time.perf_counter() - start)
            cpu[mode].append(time.process_time() - start_cpu)
    result = {
        "model": arguments.model,
        "batch": arguments.batch,
        "size": arguments.size,
        "precision": arguments.precision,
        "device": _device(),
        "xla": arguments.xla,
        "repeats": arguments.repeats,
        **compared(seconds, cpu, arguments.batch),
    }
    if not arguments.no_memory:
        for mode in modes:
            if mode in ("plain", "private") or len(modes) == 1:
                result[f"{mode}_peak_gb"] = _peak_gb(mode, arguments)
        if {"plain", "private"} <= set(modes):
            result["memory_ratio"] = result["private_peak_gb"] / result["plain_peak_gb"]
    return result


def modes_of(arguments: argparse.Namespace) -> list[str]:
    """The kinds of step that are timed, in the order in which they alternate."""
    if arguments.mode != "both":
        return [arguments.mode]
    return [mode for mode in MODES if mode != "keras" or arguments.keras]


def compared(
    seconds: dict[str, list[float]], cpu: dict[str, list[float]], batch: int
) -> dict[str, Any]:
    """Medians and minima of each kind of step, and of private to plain where both were timed.

    Args:
        seconds: Of each kind the time of every step, by the clock.
        cpu: Likewise, processor time.
        batch: Examples of a step.
    """
    median = {mode: statistics.median(values) for mode, values in seconds.items()}
    found: dict[str, Any] = {
        ("keras_train_on_batch_s" if mode == "keras" else f"{mode}_s"): value
        for mode, value in median.items()
    }
    if {"plain", "private"} <= set(seconds):
        ratios = sorted(p / q for p, q in zip(seconds["private"], seconds["plain"], strict=True))
        found |= {
            "ratio": median["private"] / median["plain"],
            "ratio_quartiles": [ratios[len(ratios) // 4], ratios[(3 * len(ratios)) // 4]],
            "ratio_of_minima": min(seconds["private"]) / min(seconds["plain"]),
            "cpu_ratio": statistics.median(cpu["private"]) / statistics.median(cpu["plain"]),
        }
    found |= {f"{mode}_min_s": min(values) for mode, values in seconds.items()}
    timed = "private" if "private" in median else next(iter(median))
    return {**found, "examples_per_s": batch / median[timed]}


def _show(arguments: argparse.Namespace) -> None:
    """What the step does, in place of how long it takes."""
    workload = _workload(arguments)
    built = workload.build()
    if arguments.explain:
        from training.losses import cross_entropy
        from training.privacy.explanation import explain, print_explanations

        loss = cross_entropy([str(i) for i in range(built.model.output.shape[-1])])
        budget = arguments.memory_budget
        memory_bytes = None if budget is None else 1e9 * budget
        print_explanations(explain(built.model, loss, workload.batch, memory_bytes))
    if arguments.profile:
        for mode in modes_of(arguments):
            step = workload.stepper(mode, built)
            step()
            step()
            print_profile(step, f"{workload.model}: a {mode} step", built.model)


def main() -> None:
    """Prints the figures, as a table or as one JSON line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dp_step", description=__doc__)
    parser.add_argument("--model", choices=MODELS, required=True)
    parser.add_argument("--batch", type=int, default=32, help="examples per step")
    parser.add_argument("--size", type=int, default=128, help="tokens, or pixels a side")
    parser.add_argument("--repeats", type=int, default=9, help="timed steps of each kind")
    parser.add_argument("--xla", action="store_true", help="compile steps with XLA")
    parser.add_argument(
        "--precision", choices=("float32", "mixed_bfloat16", "mixed_float16"), default="float32"
    )
    parser.add_argument("--memory-budget", type=float, help="privacy.memory_budget, GB")
    parser.add_argument(
        "--mode", choices=("both", *MODES), default="both", help="time one kind of step alone"
    )
    parser.add_argument("--keras", action="store_true", help="also time Keras' train_on_batch")
    parser.add_argument("--no-memory", action="store_true", help="skip the memory processes")
    parser.add_argument("--json", action="store_true", help="print one JSON line")
    parser.add_argument("--profile", action="store_true", help="show where the time goes")
    parser.add_argument("--explain", action="store_true", help="show how each layer is clipped")
    parser.add_argument("--memory-of", choices=MODES, default=None, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        workload = _workload(arguments)
        step = workload.stepper(arguments.memory_of, workload.build())
        for _ in range(3):
            step()
        print(own_peak_gb())
        return
    if arguments.profile or arguments.explain:
        _show(arguments)
        return
    result = _measure(arguments)
    if arguments.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name:24} {value:.4g}" if isinstance(value, float) else f"{name:24} {value}")


if __name__ == "__main__":
    main()
