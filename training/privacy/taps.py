"""Taps: what every trainable layer received and produced during one forward pass.

`tapped_forward` runs a model as usual and leaves behind a `Tap` for every call of every layer
that owns trainable variables: its arguments and its output *before* any fused activation. The
backward pass then gives the loss gradient at those outputs, and the layer's rule
(`training.privacy.rules`) turns the two into per-example gradients of its variables.

Layers are tapped by replacing what Keras calls of them for the time of the trace, which makes
nested models, functional graphs, shared layers and layers called several times work without the
model being rewritten. Which layers are tapped (`training.privacy.sites`), and which tensors carry
examples on their first axis, is settled beforehand by a survey (`training.privacy.survey`), never
guessed from sizes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import keras
import tensorflow as tf

from configs.schema import UserError
from training.privacy.coupling import sizes_apart
from training.privacy.rules import InsideRule, Rule
from training.privacy.rules.fallback import Shared
from training.privacy.sites import Sites

_SURVEYS = 4


@dataclass(frozen=True)
class Tap:
    """One call of one layer.

    Attributes:
        layer: The layer.
        rule: The rule that knows its gradients.
        args: Positional arguments of the call. Every tensor has leading axis batch; one that has
            not is wrapped in `Shared`. What a rule that taps inside the call kept in their place.
        kwargs: Keyword arguments of the call, likewise.
        outputs: Flat list of floating-point output tensors, before any fused activation.
    """

    layer: keras.Layer
    rule: Rule
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    outputs: list[tf.Tensor]


def tapped_forward(
    model: keras.Model,
    inputs: Any,
    batch_size: int,
    sites: Sites,
    watch: Callable[[tf.Tensor], None],
) -> tuple[Any, list[Tap]]:
    """Runs `model(inputs, training=True)` and records every call of every site.

    Args:
        model: The model.
        inputs: Its inputs; every tensor has leading axis batch.
        batch_size: Examples in the batch, static.
        sites: From `find_sites`; a survey may change it in place.
        watch: Called with every tapped output (a gradient tape's `watch`).

    Returns:
        The model's outputs, and the taps in call order.

    Raises:
        UserError: If the model cannot be private; names every layer with the remedy.
    """
    from training.privacy.survey import survey  # which records, too

    surveyed_sizes = list(islice(sizes_apart(model, inputs, batch_size), _SURVEYS))
    for surveyed_size in surveyed_sizes:
        batched = survey(model, inputs, batch_size, surveyed_size, sites)
        with recording(sites, batch_size, watch) as taps:
            outputs = model(inputs, training=True)
        # A constant axis may have the very size that was surveyed; then it has not the real one.
        if all(x.shape[:1] == [batch_size] for tap in taps for x in tap.outputs):
            return outputs, [
                _with_shared_marked(tap, flags) for tap, flags in zip(taps, batched, strict=True)
            ]
    raise UserError(
        f"model: constant axes of sizes {surveyed_sizes[0]} to {surveyed_sizes[-1]} cannot be told "
        f"from a batch of {batch_size} examples. Choose another training.physical_batch_size."
    )


def call_is_training(layer: keras.Layer, kwargs: Mapping[str, Any]) -> bool:
    """Whether a call of `layer` runs in training mode, as Keras resolved it."""
    explicit = kwargs.get("training")
    if explicit is None:
        explicit = getattr(layer._get_call_context(), "training", None)
    return bool(explicit)


@dataclass
class _Depth:
    """How many taps are being taken: inside a tap, layers run untapped."""

    value: int = field(default=0)


@contextmanager
def recording(
    sites: Sites, batch_size: int, watch: Callable[[tf.Tensor], None]
) -> Iterator[list[Tap]]:
    """Records a `Tap` for every outermost call of a site, with arguments as they came."""
    taps: list[Tap] = []
    depth = _Depth()

    def tapped(layer: keras.Layer, rule: Rule, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def run(*args: Any, **kwargs: Any) -> Any:
            if depth.value:
                return call(*args, **kwargs)
            args, kwargs = with_batch_axis((args, kwargs), batch_size)
            if isinstance(rule, InsideRule):
                return run_tapped_inside(rule, args, kwargs)
            kept_args, kept_kwargs = args, kwargs
            if rule.replays:
                # A replay needs the training mode and the masks, and the layer may consume them.
                kept_args, kept_kwargs = tf.nest.map_structure(_copy, (args, kwargs))
                kept_kwargs = {**kept_kwargs, "training": call_is_training(layer, kwargs)}
            depth.value += 1
            try:
                with rule.without_activation(layer, args, kwargs) as activation:
                    outputs = call(*args, **kwargs)
            finally:
                depth.value -= 1
            if rule.replays:
                # One tensor returned twice, or an input returned, must not count twice.
                outputs = tf.nest.map_structure(_copy, outputs)
            flat = [x for x in tf.nest.flatten(outputs) if is_floating(x)]
            for output in flat:
                watch(output)
            taps.append(Tap(layer, rule, kept_args, kept_kwargs, flat))
            return activation(outputs)

        def run_tapped_inside(rule: InsideRule, args: Any, kwargs: Any) -> Any:
            depth.value += 1
            try:
                with rule.tapped(layer, watch) as inside:
                    outputs = call(*args, **kwargs)
            finally:
                depth.value -= 1
            taps.append(Tap(layer, rule, tuple(inside.factors), {}, inside.outputs))
            return outputs

        return run

    with replaced_calls((site, tapped(site, sites.rule_for(site), called(site))) for site in sites):
        yield taps


@contextmanager
def replaced_calls(
    replacements: Iterable[tuple[keras.Layer, Callable[..., Any]]],
) -> Iterator[None]:
    """Gives each layer another `call`, or what Keras calls instead, for the time of the context."""
    patched: list[tuple[keras.Layer, str, Any]] = []
    try:
        for layer, call in replacements:
            name = _entry(layer)
            patched.append((layer, name, layer.__dict__.get(name)))
            # Through __dict__, past Keras' attribute tracking, which is closed once built.
            layer.__dict__[name] = call
        yield
    finally:
        for layer, name, original in reversed(patched):
            if original is None:
                layer.__dict__.pop(name, None)
            else:
                layer.__dict__[name] = original


def called(layer: keras.Layer) -> Callable[..., Any]:
    """What Keras calls of the layer."""
    return getattr(layer, _entry(layer))


def _entry(layer: keras.Layer) -> str:
    return "call" if getattr(layer, "quantization_mode", None) is None else "quantized_call"


def with_batch_axis(arguments: Any, batch_size: int) -> Any:
    """Repeats arguments that are all constant rows (1, ...) over the batch.

    Position ids of shape (1, time) looked up once and broadcast afterwards are the usual case:
    the gradient at an unbatched output is already summed over examples, too late to clip.
    """
    if not is_constant_row(arguments, batch_size):
        return arguments
    return tf.nest.map_structure(
        lambda x: tf.repeat(x, batch_size, axis=0) if tf.is_tensor(x) else x, arguments
    )


def is_constant_row(arguments: Any, batch_size: int) -> bool:
    """Whether all tensors among the arguments have a leading axis of one, not of the batch."""
    tensors = [x for x in tf.nest.flatten(arguments) if tf.is_tensor(x)]
    return batch_size > 1 and bool(tensors) and all(x.shape[:1] == [1] for x in tensors)


def is_floating(x: Any) -> bool:
    """Whether it is a tensor that gradients go through."""
    return tf.is_tensor(x) and x.dtype.is_floating


def _copy(x: Any) -> Any:
    """The same tensor under another name, with its Keras mask."""
    if not tf.is_tensor(x):
        return x
    copied = tf.identity(x)
    mask = getattr(x, "_keras_mask", None)
    if mask is not None:
        copied._keras_mask = mask
    return copied


def _with_shared_marked(tap: Tap, batched: list[bool]) -> Tap:
    if not tap.rule.replays:
        return tap
    flat = [
        x if is_batched or not tf.is_tensor(x) else Shared(x)
        for x, is_batched in zip(tf.nest.flatten((tap.args, tap.kwargs)), batched, strict=True)
    ]
    args, kwargs = tf.nest.pack_sequence_as((tap.args, dict(tap.kwargs)), flat)
    return Tap(tap.layer, tap.rule, args, kwargs, tap.outputs)
