"""How cost grows: with replicas, batch, length, model, number of examples and steps.

    python -m benchmarks.scaling            # about six minutes on 2 cores
    python -m benchmarks.scaling --json

Replicas here are logical CPUs that share the machine's cores, so that two of them can at best be
as fast as one device with all cores: what is measured is the price of spreading. Each slope is
printed beside the one that theory gives; docs/scaling.md draws the conclusions.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from benchmarks.slopes import log_log_slope
from benchmarks.workloads import Workload

_REPLICAS = 2


def _seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _alternating(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """The fastest of several turns of each, after one that compiles."""
    for run in runs.values():
        run()
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            taken[name].append(_seconds(run))
    return {name: min(seconds) for name, seconds in taken.items()}


def _line(points: dict[int, float], theory: str) -> dict[str, Any]:
    return {
        "points": points,
        "slope": log_log_slope(list(points), list(points.values())),
        "theory": theory,
    }


def replicas(batch: int, size: int, repeats: int) -> dict[str, dict[str, float]]:
    """Examples a second of BERT steps on one device and on logical replicas of the same cores.

    Args:
        batch: Examples over all replicas.
        size: Tokens.
        repeats: Timed steps of each kind.
    """
    import tensorflow as tf

    found: dict[str, dict[str, float]] = {}
    spread = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(_REPLICAS)])
    for mode in ("plain", "private"):
        runs = {}
        for name, strategy, each in (
            ("one device", tf.distribute.get_strategy(), batch),
            (f"{_REPLICAS} replicas", spread, batch // _REPLICAS),
        ):
            with strategy.scope():
                built = Workload("bert", each, size).build()
            runs[name] = _step_under(strategy, mode, Workload("bert", each, size), built)
        seconds = _alternating(runs, repeats)
        found[mode] = {name: batch / taken for name, taken in seconds.items()}
    return found


def _step_under(strategy: Any, mode: str, workload: Workload, built: Any) -> Callable[[], None]:
    from training.randomness import Randomness

    step = workload.step(mode, built, strategy=strategy)
    examples = workload.examples(built)
    batch = strategy.experimental_distribute_values_from_function(lambda context: examples)
    if strategy.num_replicas_in_sync == 1:
        batch = examples
    randomness = Randomness.from_seed(0)
    return lambda: step.finish(batch, step.draws(0, randomness), accumulated=False)


def growth(repeats: int) -> dict[str, dict[str, Any]]:
    """Seconds of a private step as batch, length and model grow; log-log slopes."""
    lines = {}
    built = Workload("bert", 8, 64).build()
    runs = {b: Workload("bert", b, 64).stepper("private", built) for b in (8, 16, 32)}
    lines["batch (BERT, 64 tokens)"] = _line(_by_number(runs, repeats), "1 (less what is fixed)")
    runs = {n: Workload("bert", 8, n).stepper("private", built) for n in (32, 64, 128)}
    lines["length (BERT, 8 examples)"] = _line(
        _by_number(runs, repeats), "1; attention and ghost norms 2"
    )
    sized = {}
    for width in (512, 1024, 2048):
        built = _wide(width)
        sized[built.model.count_params()] = Workload("resnet50", 16, 16).stepper("private", built)
    lines["weights (mlp, 16 examples)"] = _line(_by_number(sized, repeats), "1")
    return lines


def _by_number(runs: dict[int, Callable[[], Any]], repeats: int) -> dict[int, float]:
    named = _alternating({str(number): run for number, run in runs.items()}, repeats)
    return {int(number): seconds for number, seconds in named.items()}


def _wide(width: int) -> Any:
    from configs.schema import MlpSettings, ModelSettings
    from models import build

    mlp = MlpSettings(hidden_units=[width, width], image_size=16)
    return build(
        ModelSettings(name="mlp", mlp=mlp),
        num_classes=10,
        modality="image",
        input_shape=(16, 16, 3),
        seed=0,
    )


def sampling(batch: int, sizes: Sequence[int]) -> dict[str, Any]:
    """Seconds of a Poisson draw of `batch` expected examples out of ever more."""
    from training.privacy.sampling import PoissonSampling
    from training.randomness import Randomness

    points = {}
    for size in sizes:
        sampler = PoissonSampling(size, batch).sampler(Randomness.from_seed(0))
        points[size] = min(_seconds(lambda s=sampler, t=t: s.draw(t)) for t in range(5))
    return _line(points, "0 (time of the batch, not of the data)")


def accounting(steps: Sequence[int]) -> dict[int, dict[str, float]]:
    """Seconds to calibrate a plan to epsilon 3 and to say what it spent, over steps."""
    from configs.schema import PrivacySettings
    from training.privacy.plan import PrivacyPlan

    settings = PrivacySettings(enabled=True, epsilon=3.0)
    found = {}
    for count in steps:
        start = time.perf_counter()
        plan = PrivacyPlan.from_settings(settings, num_examples=10**6, batch_size=1024, steps=count)
        calibrated = time.perf_counter() - start
        found[count] = {
            "calibrate_s": calibrated,
            "epsilon_s": _seconds(lambda p=plan, c=count: p.epsilon(c - 1)),
            "noise_multiplier": plan.noise_multiplier,
        }
    return found


def measure(batch: int, size: int, repeats: int) -> dict[str, Any]:
    """All of it, in one process."""
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    logical = [tf.config.LogicalDeviceConfiguration() for _ in range(_REPLICAS)]
    tf.config.set_logical_device_configuration(cpu, logical)
    return {
        "replicas": replicas(batch, size, repeats),
        "growth": {
            **growth(repeats),
            "examples (Poisson draw of 1,024)": sampling(1024, [10**6, 10**7, 10**8, 10**9]),
        },
        "accounting": accounting([10, 10**4, 10**6]),
    }


def main() -> None:
    """Prints the figures, as text or as one JSON line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--batch", type=int, default=16, help="examples over all replicas")
    parser.add_argument("--size", type=int, default=64, help="tokens")
    parser.add_argument("--repeats", type=int, default=5, help="timed steps at each point")
    parser.add_argument("--json", action="store_true", help="print one JSON line")
    arguments = parser.parse_args()
    result = measure(arguments.batch, arguments.size, arguments.repeats)
    if arguments.json:
        print(json.dumps(result))
        return
    for mode, found in result["replicas"].items():
        rates = ", ".join(f"{name} {rate:.1f} examples/s" for name, rate in found.items())
        print(f"{mode:8} {rates}")
    for name, line in result["growth"].items():
        points = ", ".join(f"{n:,}: {s:.4f} s" for n, s in line["points"].items())
        print(f"{name:34} slope {line['slope']:.2f} (theory {line['theory']})   {points}")
    for steps, found in result["accounting"].items():
        print(
            f"accounting of {steps:,} steps: calibration {found['calibrate_s']:.2f} s, "
            f"epsilon {found['epsilon_s']:.2f} s (noise multiplier {found['noise_multiplier']:.4g})"
        )


if __name__ == "__main__":
    main()
