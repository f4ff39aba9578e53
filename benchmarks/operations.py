"""Where a step's time goes, by family of work, from TensorFlow's own profiler.

Operations run side by side, so that their times add up to more than the step's; what counts is
their shares. A family is read from the operation's name and type.
"""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

# Host events of operations are called "name:Type".
_OPERATION = re.compile(r"^([\w./<>-]+):(\w+)$")
_NOISE = {"StatelessRandomUniformFullIntV2", "Cos", "Sin", "Log"}
# First match counts. Work of the engine carries no layer's name, its branch for sums is `cond`.
_FAMILIES = (
    ("noise: bits, logarithm, sine, cosine", lambda name, kind: kind in _NOISE),
    ("backward", lambda name, kind: "gradient_tape" in name),
    ("optimizer", lambda name, kind: re.search(r"(^|/)(adam|sgd)\w*/", name) is not None),
    ("clipped sums", lambda name, kind: re.search(r"(^|/)cond\w*/", name) is not None),
    ("forward", lambda name, kind: "/" in name),
    ("norms and the rest of the noise", lambda name, kind: True),
)


def measure(step: Callable[[], None], steps: int = 3) -> tuple[Counter[str], Counter[str]]:
    """Milliseconds a step, by family and by (family, operation type).

    Args:
        step: Runs one step; already warm.
        steps: How many are profiled.
    """
    import tensorflow as tf
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    options = tf.profiler.experimental.ProfilerOptions(host_tracer_level=2, python_tracer_level=0)
    with tempfile.TemporaryDirectory() as folder:
        with tf.profiler.experimental.Profile(folder, options):
            for _ in range(steps):
                step()
        (file,) = Path(folder).rglob("*.xplane.pb")
        space = xplane_pb2.XSpace()
        space.ParseFromString(file.read_bytes())
    families: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    for plane in space.planes:
        for line in plane.lines:
            for event in line.events:
                match = _OPERATION.match(plane.event_metadata[event.metadata_id].name)
                if match is None:
                    continue
                family = family_of(*match.groups())
                milliseconds = event.duration_ps / 1e9 / steps
                families[family] += milliseconds
                kinds[f"{family}: {match[2]}"] += milliseconds
    return families, kinds


def family_of(name: str, kind: str) -> str:
    """The family of an operation, from its name and type."""
    return next(family for family, matches in _FAMILIES if matches(name, kind))


def print_profile(step: Callable[[], None], title: str) -> None:
    """Prints families and the dearest kinds of operations."""
    from rich.console import Console
    from rich.table import Table

    families, kinds = measure(step)
    total = sum(families.values())
    table = Table("work", "ms of operations", "share", title=title)
    for counter, count in ((families, len(families)), (kinds, 15)):
        for name, milliseconds in counter.most_common(count):
            table.add_row(name, f"{milliseconds:.1f}", f"{milliseconds / total:.1%}")
        table.add_section()
    Console(width=110).print(table)
