"""Where a step's time goes, by kind of work and by layer, from TensorFlow's own profiler.

Operations run side by side, so that their times add up to more than the step's; what counts is
their shares. The kind of work is read from an operation's name and type, the layer from its name.
"""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import keras

# Host events of operations are called "name:Type".
_OPERATION = re.compile(r"^([\w./<>-]+):(\w+)$")
_NOISE = {"StatelessRandomUniformFullIntV2", "Cos", "Sin", "Log"}
# First match counts. Norms and sums are named so by the engine (`training.privacy.norms.named`).
_FAMILIES = (
    ("noise: bits, logarithm, sine, cosine", lambda name, kind: kind in _NOISE),
    ("backward", lambda name, kind: "gradient_tape" in name),
    ("optimizer", lambda name, kind: re.search(r"(^|/)(adam|sgd)\w*/", name) is not None),
    ("clipped sums", lambda name, kind: re.search(r"(^|/)sums/", name) is not None),
    ("norms", lambda name, kind: re.search(r"(^|/)norms/", name) is not None),
    ("forward", lambda name, kind: "/" in name),
    ("the rest: loss, factors, noise", lambda name, kind: True),
)


def measure(step: Callable[[], None], steps: int = 3) -> Counter[tuple[str, str]]:
    """Milliseconds a step, by operation: (name, type).

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
    found: Counter[tuple[str, str]] = Counter()
    for plane in space.planes:
        for line in plane.lines:
            for event in line.events:
                match = _OPERATION.match(plane.event_metadata[event.metadata_id].name)
                if match is not None:
                    found[match[1], match[2]] += event.duration_ps / 1e9 / steps
    return found


def family_of(name: str, kind: str) -> str:
    """The family of an operation, from its name and type."""
    return next(family for family, matches in _FAMILIES if matches(name, kind))


def by_layer(operations: Counter[tuple[str, str]], model: keras.Model) -> dict[str, Counter[str]]:
    """Milliseconds by layer that owns variables, and by family; "" is what belongs to none.

    What a layer without variables does (the products of attention) counts for the layer that it
    is in.
    """
    from training.node_layers import NodeLayers

    layers = NodeLayers(model)
    owners = {v.path.rpartition("/")[0] for v in model.trainable_variables}
    found: dict[str, Counter[str]] = {}
    for (name, kind), milliseconds in operations.items():
        path = layers.path_in(name)
        while path and not any(f"{owner}/".startswith(f"{path}/") for owner in owners):
            path = path.rpartition("/")[0]
        found.setdefault(path, Counter())[family_of(name, kind)] += milliseconds
    return found


def print_profile(step: Callable[[], None], title: str, model: keras.Model) -> None:
    """Prints families, the dearest kinds of operations, and the dearest layers."""
    from rich.console import Console
    from rich.table import Table

    operations = measure(step)
    families: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    for (name, kind), milliseconds in operations.items():
        family = family_of(name, kind)
        families[family] += milliseconds
        kinds[f"{family}: {kind}"] += milliseconds
    total = sum(families.values())
    table = Table("work", "ms of operations", "share", title=title)
    for counter, count in ((families, len(families)), (kinds, 15)):
        for name, milliseconds in counter.most_common(count):
            table.add_row(name, f"{milliseconds:.1f}", f"{milliseconds / total:.1%}")
        table.add_section()
    shown = ("forward", "backward", "norms", "clipped sums")
    of_layers = Table("layer", *shown, "all", "share", title=f"{title}: ms of operations by layer")
    layers = by_layer(operations, model)
    for path in sorted(layers, key=lambda path: -layers[path].total())[:25]:
        whole = layers[path].total()
        of_layers.add_row(
            path or "(none)",
            *(f"{layers[path][family]:.1f}" for family in shown),
            f"{whole:.1f}",
            f"{whole / total:.1%}",
        )
    console = Console(width=120)
    console.print(table)
    console.print(of_layers)
