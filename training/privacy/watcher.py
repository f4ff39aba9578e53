"""What a dry run sees of a model: every layer's calls, every variable read and written."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import keras
import tensorflow as tf

from training.privacy.added_losses import counts_for_nothing, remedy
from training.privacy.coupling import Coupling
from training.privacy.kinds import faults_of, normalizes_over_examples
from training.privacy.problems import Problem
from training.privacy.reach import is_blind, reached
from training.privacy.repeated_draws import RANDOM
from training.privacy.rules import owned_variables
from training.privacy.sites import Sites
from training.privacy.state_writes import writes_in
from training.privacy.taps import call_is_training, called, is_constant_row, replaced_calls

# What may be done to a constant row after it was repeated over the batch without the model
# noticing: broadcasting against tensors that have the batch axis already.
_BROADCASTING = {"Add", "AddV2", "Sub", "Mul"}
_TRANSPARENT = {"Cast", "Identity"}


@dataclass
class Findings:
    """What one dry run found.

    Attributes:
        problems: Why the model cannot be private; empty if it can.
        batched: For each tapped call in order, which of its flattened arguments are batched.
        enclosing: Layers that must be tapped as a whole before the taps can be trusted.
        couplings: Where one example may reach another, unless an axis has the batch's size by
            chance.
    """

    problems: list[Problem] = field(default_factory=list)
    batched: list[list[bool]] = field(default_factory=list)
    enclosing: list[keras.Layer] = field(default_factory=list)
    couplings: list[Coupling] = field(default_factory=list)

    def report(self, layer: keras.Layer | None, what: str, remedy: str) -> None:
        problem = Problem("model" if layer is None else layer.path, what, remedy)
        if problem not in self.problems:
            self.problems.append(problem)


class Watcher(keras.StatelessScope):
    """Sees every read and write of a variable, and which layers are running at that moment.

    A stateless scope is Keras' own hook for this: reads ask it first, and writes and losses end
    in it, so that the dry run leaves nothing behind.
    """

    def __init__(self, model: keras.Model, sites: Sites, size: int, findings: Findings):
        super().__init__(collect_losses=True)
        self._model, self._sites, self._size, self._findings = model, sites, size, findings
        self._stack: list[keras.Layer] = []
        self._finished: keras.Layer | None = None
        self._mixing: set[int] = set()
        self._writing: set[int] = set()
        self._read: set[int] = set()
        self._callers: list[keras.Layer] = []
        self._rows: list[tuple[keras.Layer, list[tf.Tensor]]] = []
        self._site_ids = {id(site) for site in sites}
        self._layers = model._flatten_layers()
        self._trainable = {id(v) for v in model.trainable_variables}
        self._seeds = {
            id(generator.state)
            for layer in self._layers
            for generator in getattr(layer, "_seed_generators", ())
        }

    def get_current_value(self, variable: keras.Variable) -> Any:
        self._read.add(id(variable))
        if id(variable) in self._trainable and not self._is_covered(variable):
            self._tap_whole(self._innermost_holder(variable))
        return super().get_current_value(variable)

    def add_update(self, update: tuple[keras.Variable, Any]) -> None:
        variable, _ = update
        if id(variable) in self._seeds or variable.name == "seed_generator_state":
            self._note_randomness()
        else:
            self._note_shared_state(variable)
        super().add_update(update)

    def add_loss(self, loss: Any) -> None:
        # An activity regularizer adds its loss once the layer has finished; it is reported there.
        regularizes = getattr(self._finished, "activity_regularizer", None) is not None
        if not regularizes and not counts_for_nothing(loss):
            layer = self._stack[-1] if self._stack else None
            self._findings.report(
                layer,
                "adds a loss of its own (add_loss), which the clipped gradient would leave out",
                remedy(layer),
            )
        super().add_loss(loss)

    @contextmanager
    def every_call(self) -> Iterator[None]:
        """Follows which layers are running; checks each of them."""
        with replaced_calls(
            (layer, self._followed(layer, called(layer))) for layer in self._layers
        ):
            yield

    @contextmanager
    def constant_rows(self) -> Iterator[None]:
        """Remembers the outputs of sites that will be repeated over the batch."""
        with replaced_calls((site, self._remembered(site, called(site))) for site in self._sites):
            yield

    def check_rows(self) -> None:
        """Finds constant rows whose repetition over the batch the model would notice."""
        for caller, outputs in self._rows:
            if not all(_is_only_broadcast(output, self._size) for output in outputs):
                self._tap_whole(caller)

    @property
    def unread(self) -> list[keras.Variable]:
        """Trainable variables that no layer was seen to read."""
        return [v for v in self._model.trainable_variables if id(v) not in self._read]

    def check_reach(self, specification: Any) -> None:
        """Finds taps that the gradient does not reach, and variables that it reaches unseen."""
        found = reached(self._model, specification, self._size, self._sites)
        unseen = [v for v in self.unread if id(v) in found.variables]
        for variable in [*unseen, *found.hidden]:
            self._findings.report(
                self._owner(variable),
                f"uses '{variable.name}' out of sight (in a tf.function traced before, or in a "
                "function with a gradient of its own, like tf.recompute_grad), so that its "
                "per-example gradient cannot be taken",
                "Call the layer's operations directly; training compiles the whole step.",
            )
        for tap, is_reached, caller in zip(found.tapped, found.taps, self._callers, strict=True):
            if is_blind(tap, is_reached, found.variables):
                self._tap_whole(caller)

    def _owner(self, variable: keras.Variable) -> keras.Layer:
        return next(
            (x for x in self._layers if any(variable is v for v in owned_variables(x))), self._model
        )

    def check_graph(self, graph: tf.Graph) -> None:
        """Finds what the model writes beside variables of Keras."""
        for name in writes_in(graph):
            self._findings.report(
                None,
                f"writes the variable '{name}' while it trains, so that later batches see earlier "
                "ones",
                "Remove the update, or make it a constant.",
            )

    def _followed(self, layer: keras.Layer, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def run(*args: Any, **kwargs: Any) -> Any:
            is_tap = self._tapped() is None and id(layer) in self._site_ids
            self._check_kind(layer, call_is_training(layer, kwargs))
            is_replayed = is_tap and self._sites.rule_for(layer).replays
            operations_before = len(_operations()) if is_replayed else 0
            self._stack.append(layer)
            try:
                outputs = call(*args, **kwargs)
            finally:
                self._stack.pop()
                self._finished = layer
            if is_tap:
                self._callers.append(self._stack[-1] if self._stack else self._model)
                self._check_outputs(layer, outputs)
            if is_replayed and any(
                operation.type in RANDOM for operation in _operations()[operations_before:]
            ):
                self._report_randomness(layer)
            return outputs

        return run

    def _remembered(self, site: keras.Layer, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def run(*args: Any, **kwargs: Any) -> Any:
            outputs = call(*args, **kwargs)
            if self._tapped() is None and is_constant_row((args, kwargs), self._size):
                caller = self._stack[-1] if self._stack else self._model
                self._rows.append(
                    (caller, [x for x in tf.nest.flatten(outputs) if tf.is_tensor(x)])
                )
            return outputs

        return run

    def _tapped(self) -> keras.Layer | None:
        """The site whose call is being recorded: the outermost on the stack."""
        return next((layer for layer in self._stack if id(layer) in self._site_ids), None)

    def _is_covered(self, variable: keras.Variable) -> bool:
        site = self._tapped()
        if site is None:
            return False
        covers_inner = self._sites.rule_for(site).covers_inner
        covered = site.trainable_variables if covers_inner else owned_variables(site)
        return any(variable is v for v in covered)

    def _innermost_holder(self, variable: keras.Variable) -> keras.Layer:
        # What a tapped layer calls runs untapped: only around that can help.
        site = self._tapped()
        within = len(self._stack) if site is None else self._stack.index(site) + 1
        for layer in reversed(self._stack[:within]):
            if any(variable is v for v in layer.trainable_variables):
                return layer
        return self._model

    def _tap_whole(self, layer: keras.Layer) -> None:
        if not any(layer is known for known in self._findings.enclosing):
            self._findings.enclosing.append(layer)

    def _check_outputs(self, layer: keras.Layer, outputs: Any) -> None:
        for output in tf.nest.flatten(outputs):
            if not tf.is_tensor(output) or not output.dtype.is_floating:
                continue
            if output.shape.rank is None or output.shape[:1] != [self._size]:
                self._tap_whole(self._stack[-1] if self._stack else self._model)

    def _check_kind(self, layer: keras.Layer, training: bool) -> None:
        if normalizes_over_examples(layer, training):
            self._mixing.add(id(layer))
        for what, instead in faults_of(layer, training):
            self._findings.report(layer, what, instead)

    def _note_shared_state(self, variable: keras.Variable) -> None:
        writer = self._stack[-1] if self._stack else self._model
        if id(writer) in self._mixing or id(writer) in self._writing:
            return
        self._writing.add(id(writer))
        self._findings.report(
            writer,
            f"writes the variable '{variable.path}' while it trains, so that examples reach the "
            "weights unclipped and without noise",
            "Remove the layer or its wrapper, or freeze that variable.",
        )

    def _note_randomness(self) -> None:
        site = self._tapped()
        if site is not None and self._sites.rule_for(site).replays:
            self._report_randomness(site)

    def _report_randomness(self, site: keras.Layer) -> None:
        self._findings.report(
            site,
            f"({type(site).__name__}) draws random numbers inside (dropout, noise), and its "
            "private gradient replays the layer, which would draw others",
            "Set its dropout to 0 and put a Dropout layer beside it.",
        )


def _operations() -> list[tf.Operation]:
    return tf.compat.v1.get_default_graph().get_operations()


def _is_only_broadcast(row: tf.Tensor, size: int) -> bool:
    """Whether everything done to a repeated constant row is what broadcasting would have done."""
    for consumer in row.consumers():
        result = consumer.outputs[0]
        if consumer.type in _BROADCASTING:
            other = consumer.inputs[1] if consumer.inputs[0] is row else consumer.inputs[0]
            if other.shape.rank is None or other.shape.rank > row.shape.rank:
                return False
            if other.shape.rank == row.shape.rank and other.shape[0] == size:
                continue
        elif consumer.type not in _TRANSPARENT:
            return False
        if not _is_only_broadcast(result, size):
            return False
    return True
