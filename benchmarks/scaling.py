"""How cost grows: with replicas, batch, length, model, number of examples and steps.

    python -m benchmarks.scaling            # under four minutes of processor time
    python -m benchmarks.scaling --parts growth --repeats 5 --json

Replicas here are logical CPUs that share the machine's cores, so that two of them can at best be
as fast as one device with all cores: what is measured is the price of spreading. Each slope is
printed beside the one that theory gives; docs/scaling.md draws the conclusions. Every figure is
printed as soon as it is there, so that a run that is cut short has said what it found.

Slopes are those of processor seconds (all threads of this process), which other programs on the
machine change little; elapsed seconds stand beside them in brackets. What every step pays once
flattens a slope, so the power of growth beside such a constant is given too.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import scipy.optimize

from benchmarks.slopes import log_log_slope
from benchmarks.workloads import Workload

# The quick ones first.
PARTS = ("accounting", "growth", "replicas")
_REPLICAS = 2
_REPLICA_TOKENS = 32
# Where a power of growth is looked for.
_POWERS = (0.01, 4.0)


@dataclass(frozen=True)
class Seconds:
    """What a run took: the least of several repeats, each of the two for itself.

    Attributes:
        elapsed: By the clock on the wall.
        processor: Of all threads of this process.
    """

    elapsed: float
    processor: float


def timed(run: Callable[[], Any]) -> Seconds:
    """Seconds of one run."""
    elapsed, processor = time.perf_counter(), time.process_time()
    run()
    return Seconds(time.perf_counter() - elapsed, time.process_time() - processor)


def fastest_of_each(
    runs: Mapping[Any, Callable[[], Any]], repeats: int, at_once: int = 1
) -> dict[Any, Seconds]:
    """The least seconds of each run, taken in turns, after one of each that compiles.

    Args:
        runs: By any name.
        repeats: Timed turns.
        at_once: Runs timed together, for those too short for the clock.
    """
    taken: dict[Any, list[Seconds]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for _ in range(repeats):
        for name, run in runs.items():
            taken[name].append(timed(lambda run=run: [run() for _ in range(at_once)]))
    return {
        name: Seconds(
            min(s.elapsed for s in seconds) / at_once, min(s.processor for s in seconds) / at_once
        )
        for name, seconds in taken.items()
    }


def line(points: Mapping[int, Seconds], theory: str) -> dict[str, Any]:
    """Points, the log-log slope of their processor seconds, and the slope of theory."""
    seconds = [s.processor for s in points.values()]
    return {
        "points": {n: vars(s) for n, s in points.items()},
        "slope": log_log_slope(list(points), seconds),
        "power": power_beside_a_constant(list(points), seconds),
        "theory": theory,
    }


def power_beside_a_constant(sizes: Sequence[int], seconds: Sequence[float]) -> float | None:
    """The power p of a + b n^p through three points; None if they are no such three.

    What every step pays once (noise, optimizer) flattens a log-log slope; a is that part, and
    drops out of the increments of the seconds.

    Args:
        sizes: Three sizes, growing.
        seconds: What they took.
    """
    if len(sizes) != 3:
        return None
    first, second = seconds[1] - seconds[0], seconds[2] - seconds[1]
    if min(first, second) <= 0:
        return None
    one, two, three = sizes

    def excess(power: float) -> float:
        return (three**power - two**power) / (two**power - one**power) - second / first

    if excess(_POWERS[0]) > 0 or excess(_POWERS[1]) < 0:
        return None
    return float(scipy.optimize.brentq(excess, *_POWERS))


def replicas(batch: int, repeats: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Examples a second of BERT steps on one device and on logical replicas of the same cores.

    Args:
        batch: Examples over all replicas.
        repeats: Timed steps of each kind.
    """
    import tensorflow as tf

    spread = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(_REPLICAS)])
    cores = os.cpu_count() or 1
    kinds = (
        (f"1 replica x {cores} cores", tf.distribute.get_strategy(), batch),
        (f"{_REPLICAS} replicas x {cores // _REPLICAS} core(s)", spread, batch // _REPLICAS),
    )
    steppers: dict[str, dict[str, Callable[[], None]]] = {"plain": {}, "private": {}}
    for name, strategy, each in kinds:
        workload = Workload("bert", each, _REPLICA_TOKENS)
        with strategy.scope():
            built = workload.build()
        for mode, runs in steppers.items():
            runs[name] = _step_under(strategy, mode, workload, built)
    for mode, runs in steppers.items():
        yield (
            mode,
            {
                name: {
                    "examples_per_s": batch / seconds.elapsed,
                    "processor_ms_per_example": 1e3 * seconds.processor / batch,
                }
                for name, seconds in fastest_of_each(runs, repeats).items()
            },
        )


def _step_under(strategy: Any, mode: str, workload: Workload, built: Any) -> Callable[[], None]:
    from training.randomness import Randomness

    step = workload.step(mode, built, strategy=strategy)
    examples = workload.examples(built)
    batch = strategy.experimental_distribute_values_from_function(lambda context: examples)
    if strategy.num_replicas_in_sync == 1:
        batch = examples
    randomness = Randomness.from_seed(0)
    return lambda: step.finish(batch, step.draws(0, randomness), accumulated=False)


def growth(repeats: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Seconds of a private step as batch, length and model grow."""
    built = Workload("bert", 8, 64).build()
    runs = {b: Workload("bert", b, 64).stepper("private", built) for b in (8, 16, 32)}
    yield "batch (BERT, 64 tokens)", line(fastest_of_each(runs, repeats), "1")
    runs = {}
    for tokens in (32, 64, 128):
        workload = Workload("bert", 8, tokens)  # of its own length, so a model of its own
        runs[tokens] = workload.stepper("private", workload.build())
    yield (
        "length (BERT, 8 examples)",
        line(fastest_of_each(runs, repeats), "1 to 2 (attention and ghost norms: 2)"),
    )
    runs = {}
    for width in (512, 1024, 2048):
        wide = _wide(width)
        runs[wide.model.count_params()] = Workload("resnet50", 16, 16).stepper("private", wide)
    yield "weights (mlp, 16 examples)", line(fastest_of_each(runs, repeats), "1")
    yield (
        "examples (Poisson draw of 1,024)",
        sampling(1024, [10**6, 10**7, 10**8, 10**9], repeats),
    )


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


def sampling(batch: int, sizes: Sequence[int], repeats: int) -> dict[str, Any]:
    """Seconds of a Poisson draw of `batch` expected examples out of ever more."""
    from training.privacy.sampling import PoissonSampling
    from training.randomness import Randomness

    samplers = {
        size: PoissonSampling(size, batch).sampler(Randomness.from_seed(0)) for size in sizes
    }
    runs = {size: lambda s=sampler: s.draw(0) for size, sampler in samplers.items()}
    points = fastest_of_each(runs, repeats, at_once=50)
    return line(points, "0: time of the batch, not of the data")


def accounting(steps: Sequence[int]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Seconds to calibrate a plan to epsilon 3, and to say what it spent, over steps."""
    from configs.schema import PrivacySettings
    from training.privacy.plan import PrivacyPlan

    settings = PrivacySettings(enabled=True, epsilon=3.0)

    def plan_of(count: int) -> PrivacyPlan:
        return PrivacyPlan.from_settings(settings, num_examples=10**6, batch_size=1024, steps=count)

    plan_of(1)  # imports what accounts
    for count in steps:
        made: list[PrivacyPlan] = []
        calibration = timed(lambda c=count, made=made: made.append(plan_of(c)))
        (plan,) = made
        yield (
            count,
            {
                "calibration": vars(calibration),
                # One release fewer than calibrated for, so that nothing is remembered.
                "epsilon": vars(timed(lambda p=plan, c=count: p.epsilon(c - 1))),
                "noise_multiplier": plan.noise_multiplier,
            },
        )


def main() -> None:
    """Prints the figures, as text or as one JSON line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--batch", type=int, default=16, help="examples over all replicas")
    parser.add_argument("--repeats", type=int, default=3, help="timed steps at each point")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure")
    parser.add_argument("--json", action="store_true", help="print one JSON line")
    arguments = parser.parse_args()
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    logical = [tf.config.LogicalDeviceConfiguration() for _ in range(_REPLICAS)]
    tf.config.set_logical_device_configuration(cpu, logical)
    found: dict[str, dict[Any, Any]] = {}
    parts = {
        "accounting": (accounting([10, 10**4, 10**6]), _accounting_text),
        "growth": (growth(arguments.repeats), _growth_text),
        "replicas": (replicas(arguments.batch, arguments.repeats), _replicas_text),
    }
    for part in arguments.parts:
        results, text = parts[part]
        found[part] = {}
        for name, result in results:
            found[part][name] = result
            if not arguments.json:
                print(text(name, result), flush=True)
    if arguments.json:
        print(json.dumps(found))


def _accounting_text(steps: int, found: dict[str, Any]) -> str:
    took, epsilon = found["calibration"], found["epsilon"]
    return (
        f"accounting of {steps:>9,} steps   calibration {took['elapsed']:.2f} s "
        f"(processor {took['processor']:.2f} s), epsilon {epsilon['elapsed']:.2f} s "
        f"({epsilon['processor']:.2f} s), noise multiplier {found['noise_multiplier']:.4g}"
    )


def _growth_text(name: str, found: dict[str, Any]) -> str:
    points = ", ".join(
        f"{n:,}: {1e3 * s['processor']:.3g} ms ({1e3 * s['elapsed']:.3g})"
        for n, s in found["points"].items()
    )
    power = "" if found["power"] is None else f", {found['power']:.2f} beside a constant"
    slope = f"slope {found['slope']:.2f}{power}, theory {found['theory']}"
    return f"{name:33} {slope}   {points}"


def _replicas_text(mode: str, found: dict[str, Any]) -> str:
    rates = ", ".join(
        f"{name}: {rate['examples_per_s']:.1f} examples/s "
        f"({rate['processor_ms_per_example']:.3g} processor ms an example)"
        for name, rate in found.items()
    )
    return f"{mode:8} {rates}"


if __name__ == "__main__":
    main()
