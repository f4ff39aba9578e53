"""What each choice of `trainable` costs, against training every weight.

    python -m benchmarks.parameter_efficient --model bert --batch 32 --size 64
    python -m benchmarks.parameter_efficient --model resnet50 --batch 16 --size 64 --memory

All choices are built in one process and their steps alternate: plain, private, and private with
the frozen front of the model computed beforehand, as `sterling train` does where it fits into
`training.cache_frozen_gb`. A step is forward, backward, clipping, noise and optimizer. The table
shows medians of processor time over all threads, which a busy machine disturbs less than wall
time; `--json` gives both. With `--memory`, each choice's private step also runs in a process of its
own: its peak less what the process held before the first step (activations, gradients and optimizer
state).
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from benchmarks.workloads import Workload

BERT: dict[str, dict[str, Any]] = {
    "all": {"trainable": "all"},
    "head": {"trainable": "head"},
    "last block": {"trainable": "top_k", "top_k": 1},
    "bitfit": {"trainable": "bitfit"},
    "bitfit, last block": {"trainable": "bitfit", "adapted_blocks": 1},
    "lora": {"trainable": "lora"},
    "lora, last block": {"trainable": "lora", "adapted_blocks": 1},
    "adapters": {"trainable": "adapters"},
    "adapters, last block": {"trainable": "adapters", "adapted_blocks": 1},
}
RESNET50: dict[str, dict[str, Any]] = {
    "all": {"trainable": "all"},
    "head": {"trainable": "head"},
    "last stage": {"trainable": "top_k", "top_k": 1},
    "bitfit": {"trainable": "bitfit"},
    "lora": {"trainable": "lora"},
}
CHOICES = {"bert": BERT, "resnet50": RESNET50}
KINDS = ("plain", "private", "cached")


def build(model: str, choice: str, size: int) -> Any:
    """The model of one choice."""
    from configs.schema import BertSettings, ModelSettings, ResNet50Settings
    from models import build as build_model

    changes = CHOICES[model][choice]
    if model == "bert":
        bert = BertSettings(sequence_length=size, **changes)
        settings = ModelSettings(name="bert", bert=bert)
        return build_model(settings, num_classes=2, modality="text", seed=0)
    resnet50 = ResNet50Settings(normalization="group", image_size=size, **changes)
    settings = ModelSettings(name="resnet50", resnet50=resnet50)
    return build_model(settings, num_classes=10, modality="image", seed=0)


def steppers(workload: Workload, built: Any, kinds: tuple[str, ...]) -> dict[str, Callable]:
    """One function a kind of step; "cached" is there only if the model has a frozen front."""
    from models import split_frozen_prefix
    from training.randomness import Randomness

    batch = workload.examples(built)
    prefix, suffix = split_frozen_prefix(built)
    found = {}
    for kind in kinds:
        model, examples = built, batch
        if kind == "cached":
            if prefix is None:
                continue
            model = replace(built, model=suffix)
            examples = {**batch, "inputs": prefix(batch["inputs"])}
        step = workload.step("plain" if kind == "plain" else "private", model)
        draws = step.draws(0, Randomness.from_seed(1))

        def run(step: Any = step, examples: Any = examples, draws: Any = draws) -> None:
            step.finish(examples, draws, accumulated=False)

        found[kind] = run
    return found


def timed(
    steps: dict[str, dict[str, Callable[[], None]]], repeats: int
) -> dict[tuple[str, str], tuple[float, float]]:
    """Median wall and processor seconds of each choice's steps, which take turns."""
    for runs in steps.values():
        for run in runs.values():
            run()
    times: dict[tuple[str, str], list[tuple[float, float]]] = {
        (choice, kind): [] for choice, runs in steps.items() for kind in runs
    }
    for _ in range(repeats):
        for choice, kind in times:
            start, start_cpu = time.perf_counter(), time.process_time()
            steps[choice][kind]()
            spent = time.perf_counter() - start, time.process_time() - start_cpu
            times[choice, kind].append(spent)
    return {
        key: (statistics.median(w for w, _ in found), statistics.median(c for _, c in found))
        for key, found in times.items()
    }


def measure(workload: Workload, repeats: int) -> list[dict[str, Any]]:
    """One row a choice: trained parameters and median times of its steps."""
    rows, steps = [], {}
    for choice in CHOICES[workload.model]:
        built = build(workload.model, choice, workload.size)
        trained = sum(math.prod(variable.shape) for variable in built.model.trainable_variables)
        rows.append({"choice": choice, "trained": trained})
        steps[choice] = steppers(workload, built, KINDS)
    times = timed(steps, repeats)
    for row in rows:
        for kind in KINDS:
            if measured := times.get((row["choice"], kind)):
                row[f"{kind}_s"], row[f"{kind}_cpu_s"] = measured
        row["private_over_plain"] = row["private_cpu_s"] / row["plain_cpu_s"]
    whole = rows[0]["private_cpu_s"]
    for row in rows:
        for kind in KINDS:
            if f"{kind}_cpu_s" in row:
                row[f"{kind}_of_all"] = row[f"{kind}_cpu_s"] / whole
    return rows


def _resident_gb(field: str) -> float:
    with open("/proc/self/status", encoding="ascii") as status:
        for line in status:
            if line.startswith(field):
                return float(line.split()[1]) / 1e6
    raise OSError(f"/proc/self/status has no {field}: memory is measured on Linux only")


def step_gb(workload: Workload, choice: str) -> float:
    """What this process's private step takes at its peak, in GB; call it in a fresh process."""
    built = build(workload.model, choice, workload.size)
    run = steppers(workload, built, ("private",))["private"]
    before = _resident_gb("VmRSS:")
    for _ in range(3):
        run()
    return _resident_gb("VmHWM:") - before


def _table(rows: list[dict[str, Any]]) -> str:
    headings = {
        "choice": "trains",
        "trained": "parameters",
        "plain_cpu_s": "plain CPU s",
        "private_cpu_s": "private CPU s",
        "cached_cpu_s": "cached CPU s",
        "private_over_plain": "private/plain",
        "private_of_all": "private, of all",
        "cached_of_all": "cached, of all",
        "step_gb": "step GB",
    }
    kept = [key for key in headings if any(key in row for row in rows)]
    lines = ["| " + " | ".join(headings[key] for key in kept) + " |", "|---" * len(kept) + "|"]
    for row in rows:
        lines.append("| " + " | ".join(_cell(row.get(key)) for key in kept) + " |")
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, int):
        return f"{value:,}"
    return value if isinstance(value, str) else f"{value:.3g}"


def main() -> None:
    """Prints a table, or JSON lines."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.parameter_efficient",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", choices=tuple(CHOICES), required=True)
    parser.add_argument("--batch", type=int, default=32, help="examples per step")
    parser.add_argument("--size", type=int, default=64, help="tokens, or pixels a side")
    parser.add_argument("--repeats", type=int, default=7, help="timed steps of each kind")
    parser.add_argument("--memory", action="store_true", help="measure memory, too")
    parser.add_argument("--json", action="store_true", help="print a JSON line for each choice")
    parser.add_argument("--memory-of", default=None, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    workload = Workload(arguments.model, arguments.batch, arguments.size)
    if arguments.memory_of:
        print(step_gb(workload, arguments.memory_of))
        return
    rows = measure(workload, arguments.repeats)
    if arguments.memory:
        for row in rows:
            command = [sys.executable, "-m", "benchmarks.parameter_efficient"]
            command += ["--model", arguments.model, "--batch", str(arguments.batch)]
            command += ["--size", str(arguments.size), "--memory-of", row["choice"]]
            shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            row["step_gb"] = float(shown)
    print("\n".join(json.dumps(row) for row in rows) if arguments.json else _table(rows))


if __name__ == "__main__":
    main()
