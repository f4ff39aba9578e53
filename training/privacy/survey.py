"""The survey: a dry run of a model that settles what the private engine may assume of it.

The model is traced once, never run, on a batch of another size than the real one. An axis is the
batch where it changed, a constant where it did not, however its size may coincide. On the way
every read and write of a variable is seen, so that the survey knows

* layers whose output has no batch axis of its own (position tables looked up once): the layer
  that called them is tapped as a whole instead, which is exact;
* layers that run where their tap finds no gradient (in a loop of their caller's): likewise;
* uses of a trainable variable outside the layer that a rule covers (a weight borrowed from
  another layer): again the caller is tapped as a whole;
* layers that cannot be private: they mix examples, carry state, add losses, or draw random
  numbers where they must be replayed. All of them are reported at once;
* where one example reaches another (`training.privacy.coupling`), if nothing else is wrong.

What it cannot see is rows that mix although every axis looks right: that is what
`training.privacy.inspection.probe` measures.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from training.node_layers import NodeLayers
from training.privacy.coupling import (
    UNMISTAKABLE,
    backward_pass,
    couplings,
    found_again,
    sizes_apart,
)
from training.privacy.problems import refuse
from training.privacy.reach import may_be_hidden
from training.privacy.sites import Sites
from training.privacy.taps import recording
from training.privacy.watcher import Findings, Watcher


def survey(
    model: keras.Model, inputs: Any, batch_size: int, surveyed_size: int, sites: Sites
) -> list[list[bool]]:
    """Which arguments of every tapped call are batched; adapts `sites` in place where needed.

    Args:
        model: The model.
        inputs: Its inputs.
        batch_size: Examples in `inputs`.
        surveyed_size: Examples in the dry run; another number.
        sites: The layers to tap.

    Raises:
        UserError: If the model cannot be private; names every layer with the remedy.
    """
    sites.settle()
    key = (batch_size, surveyed_size, _signature(inputs))
    if key not in sites.batched:
        findings = examine(model, inputs, surveyed_size, sites)
        refuse(findings.problems)
        sites.batched[key] = findings.batched
    return sites.batched[key]


def examine(model: keras.Model, inputs: Any, size: int, sites: Sites) -> Findings:
    """Surveys until the taps can be trusted, tapping ever larger layers as a whole.

    Ends because every round adds a layer, at worst the model itself, whose per-example gradient
    the fallback takes directly.
    """
    while True:
        findings = _trace(model, inputs, size, sites)
        new = [layer for layer in findings.enclosing if id(layer) not in sites.whole]
        if not new:
            break
        for layer in new:
            sites.tap_whole(layer)
    if findings.couplings and not findings.problems:
        other = next(sizes_apart(model, inputs, size))
        layers = NodeLayers(model)
        again = _trace(model, inputs, other, sites).couplings
        for coupling in found_again(findings.couplings, again):
            findings.problems.append(coupling.problem(layers.path_in(coupling.name) or "model"))
    return findings


def _signature(inputs: Any) -> str:
    return str(tf.nest.map_structure(lambda x: (tuple(x.shape), x.dtype), inputs))


def _trace(model: keras.Model, inputs: Any, size: int, sites: Sites) -> Findings:
    findings = Findings()
    doubtful = []

    def larger(x: tf.Tensor) -> tf.TensorSpec:
        return tf.TensorSpec([size, *x.shape[1:]], x.dtype)

    @tf.function(autograph=False)
    def dry_run(larger_inputs: Any) -> tf.Tensor:
        watcher = Watcher(model, sites, size, findings)
        # Outside in: what a caller sees, the tap, the layer's own call.
        with (
            tf.GradientTape(watch_accessed_variables=False) as tape,
            watcher,
            watcher.every_call(),
            recording(sites, size, tape.watch) as taps,
            watcher.constant_rows(),
        ):
            outputs = model(larger_inputs, training=True)
        watcher.check_rows()
        findings.batched.extend(
            [
                tf.is_tensor(x) and x.shape[:1] == [size]
                for x in tf.nest.flatten((tap.args, tap.kwargs))
            ]
            for tap in taps
        )
        for output in tf.nest.flatten(outputs):
            if tf.is_tensor(output) and output.shape[:1] != [size]:
                findings.report(
                    None,
                    f"gives an output of shape {output.shape}, whose first axis is not the batch",
                    "Let row i of the logits belong to example i.",
                )
        watcher.check_graph(tf.compat.v1.get_default_graph())
        if size >= UNMISTAKABLE:
            examples, made = _tensors_in(larger_inputs), _tensors_in(outputs)
            tapped = [x for tap in taps for x in tap.outputs]
            made += backward_pass(tape, made, tapped)
            findings.couplings.extend(couplings(examples, made, size))
        if watcher.unread or may_be_hidden(taps, outputs):
            doubtful.append(watcher)
        return tf.zeros([])

    specification = tf.nest.map_structure(larger, inputs)
    dry_run.get_concrete_function(specification)
    if doubtful and not findings.problems:
        doubtful[0].check_reach(specification)
    return findings


def _tensors_in(nest: Any) -> list[tf.Tensor]:
    return [x for x in tf.nest.flatten(nest) if tf.is_tensor(x)]
