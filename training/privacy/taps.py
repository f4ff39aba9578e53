"""Taps: what every trainable layer received and produced during one forward pass.

While `recording` is active, each layer that owns trainable variables runs as usual, and leaves
behind a `Tap`: its arguments and its output *before* any fused activation. The backward pass then
gives the loss gradient at those outputs, and the layer's rule (`training.privacy.rules`) turns
the two into per-example gradients of its variables.

Layers are tapped by replacing `layer.call` for the time of the trace, which is what makes nested
models, functional graphs, shared layers and layers called several times work without the model
being rewritten.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import keras
import tensorflow as tf

from configs.schema import UserError
from training.privacy.rules import Rule, owned_variables, rule_for


@dataclass(frozen=True)
class Tap:
    """One call of one layer.

    Attributes:
        layer: The layer.
        args: Positional arguments of the call; every batched tensor has leading axis batch.
        kwargs: Keyword arguments of the call.
        outputs: Flat list of output tensors, before any fused activation.
    """

    layer: keras.Layer
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    outputs: list[tf.Tensor]


def find_sites(model: keras.Model) -> list[keras.Layer]:
    """The layers to tap: each trainable variable of `model` belongs to exactly one of them.

    A layer that owns variables *and* holds layers that do, or whose layers run inside a loop of
    its own (recurrent layers, TimeDistributed), is tapped as a whole.

    Raises:
        UserError: If a trainable variable belongs to no layer, so that no rule would see it.
    """
    sites: list[keras.Layer] = []
    seen: set[int] = set()

    def visit(layer: keras.Layer) -> None:
        if id(layer) in seen:
            return
        seen.add(id(layer))
        if not layer.trainable_variables:
            return
        if owned_variables(layer) or rule_for(layer).whole:
            sites.append(layer)
            return
        for inner in layer._flatten_layers(include_self=False, recursive=False):
            visit(inner)

    visit(model)
    covered = {id(v) for site in sites for v in site.trainable_variables}
    for variable in model.trainable_variables:
        if id(variable) not in covered:
            raise UserError(
                f"model: trainable variable '{variable.path}' belongs to no Keras layer, so its "
                "per-example gradient cannot be taken. Create it with add_weight inside a layer."
            )
    return sites


def _with_batch_axis(x: Any, batch_size: int) -> Any:
    """Repeats a constant row (1, ...) over the batch, so that its gradient is per example.

    Position ids of shape (1, time) looked up once and broadcast afterwards are the usual case:
    the gradient at an unbatched output is already summed over examples, too late to clip.
    """
    if not tf.is_tensor(x) or x.shape.rank is None or x.shape.rank == 0 or x.shape[0] != 1:
        return x
    return tf.repeat(x, batch_size, axis=0)


def _unbatched_output(layer: keras.Layer, outputs: list[tf.Tensor], batch_size: int) -> str | None:
    for output in outputs:
        if output.shape.rank in (None, 0) or output.shape[0] != batch_size:
            return (
                f"layer '{layer.path}' ({type(layer).__name__}) gives an output of shape "
                f"{output.shape}, whose first axis is not the batch of {batch_size} examples, so "
                "its gradient cannot be told apart by example. Keep the batch axis first and "
                "apart from the others."
            )
    return None


@dataclass(frozen=True)
class Recording:
    """What a forward pass left behind.

    Attributes:
        taps: One for every call of every site, in call order.
        refusals: Why the model cannot be private, one line a problem.
    """

    taps: list[Tap] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)

    def raise_refusals(self) -> None:
        """Raises `UserError` naming every problem found, with its remedy."""
        if self.refusals:
            raise UserError("model: cannot be trained privately: " + " ".join(self.refusals))


@contextmanager
def recording(
    sites: list[keras.Layer], batch_size: int, watch: Callable[[tf.Tensor], None]
) -> Iterator[Recording]:
    """Records a `Tap` for every call of every site.

    Args:
        sites: The layers to tap, from `find_sites`.
        batch_size: Examples in the batch; the static leading axis of every tapped tensor.
        watch: Called with every tapped output (a gradient tape's `watch`).

    Yields:
        The recording, filled as layers are called. Problems are collected, not raised: inside
        `call` Keras would wrap the error in pages of its own.
    """
    seen = Recording()

    def refuse(problem: str | None) -> None:
        if problem is not None and problem not in seen.refusals:
            seen.refusals.append(problem)

    def tapped(layer: keras.Layer, rule: Rule, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def run(*args: Any, **kwargs: Any) -> Any:
            refuse(rule.refusal(layer, kwargs))
            tensors = [x for x in tf.nest.flatten((args, kwargs)) if tf.is_tensor(x)]
            if batch_size > 1 and tensors and all(x.shape[:1] == [1] for x in tensors):
                args, kwargs = tf.nest.map_structure(
                    lambda x: _with_batch_axis(x, batch_size), (args, kwargs)
                )
            with rule.without_activation(layer) as activation:
                outputs = call(*args, **kwargs)
            flat = tf.nest.flatten(outputs)
            refuse(_unbatched_output(layer, flat, batch_size))
            for output in flat:
                watch(output)
            seen.taps.append(Tap(layer, args, kwargs, flat))
            return activation(outputs)

        return run

    patched = [(layer, layer.__dict__.get("call")) for layer in sites]
    try:
        for layer, _ in patched:
            # Through __dict__, past Keras' attribute tracking, which is closed once built.
            layer.__dict__["call"] = tapped(layer, rule_for(layer), layer.call)
        yield seen
    finally:
        for layer, original in patched:
            if original is None:
                layer.__dict__.pop("call", None)
            else:
                layer.__dict__["call"] = original
