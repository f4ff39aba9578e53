"""Sites: the layers that are tapped, so that one tap sees every use of every trainable variable.

Settled from the model's structure, and then by surveys of it (`training.privacy.survey`), which may
find that a layer must be tapped as a whole, by the exact fallback.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras

from configs.schema import UserError
from training.privacy.rules import Rule, owned_variables, rule_for
from training.privacy.rules.fallback import FALLBACK


class Sites(list[keras.Layer]):
    """The layers to tap, and what surveys of the model have learnt about them.

    Attributes:
        model: The model whose layers they are.
        whole: Ids of layers tapped as a whole, by the fallback, whatever their class; grown by
            surveys.
        batched: Survey key -> for each call in order, which of its flattened arguments are
            batched.
    """

    def __init__(self, model: keras.Model, whole: Iterable[int] = ()):
        super().__init__()
        self.model = model
        self.whole: set[int] = set(whole)
        self.batched: dict[Any, list[list[bool]]] = {}
        self._trained: list[tuple[int, bool]] | None = None
        self.settle()

    def settle(self) -> None:
        """Finds the layers again if others are trained than at the last time."""
        if self._trained == _trained(self.model):
            return
        self._trained = _trained(self.model)
        # A call patched by hand is not what the rule of its class is about.
        self.whole |= {id(x) for x in self.model._flatten_layers() if "call" in vars(x)}
        self[:] = _sites_of(self.model, self.whole)
        self.batched.clear()

    def tap_whole(self, layer: keras.Layer) -> None:
        """Taps `layer` as a whole from now on, in place of the layers inside it."""
        self.whole.add(id(layer))
        self[:] = _sites_of(self.model, self.whole)
        self.batched.clear()

    def rule_for(self, layer: keras.Layer) -> Rule:
        return FALLBACK if id(layer) in self.whole else rule_for(layer)


def _trained(model: keras.Model) -> list[tuple[int, bool]]:
    """Tells a model from itself with other layers or variables frozen, or built since."""
    parts = [*model._flatten_layers(), *model.variables]
    return [(id(part), part.trainable) for part in parts]


def _sites_of(model: keras.Model, whole: set[int]) -> list[keras.Layer]:
    sites: list[keras.Layer] = []
    seen: set[int] = set()

    def visit(layer: keras.Layer) -> None:
        if id(layer) in seen:
            return
        seen.add(id(layer))
        if not layer.trainable_variables:
            return
        tapped_whole = id(layer) in whole or rule_for(layer).whole
        if tapped_whole or owned_variables(layer):
            sites.append(layer)
        if tapped_whole or (owned_variables(layer) and rule_for(layer).covers_inner):
            return
        for inner in layer._flatten_layers(include_self=False, recursive=False):
            visit(inner)

    visit(model)
    return sites


def find_sites(model: keras.Model) -> Sites:
    """The layers to tap, so that every use of every trainable variable is seen by one tap.

    A layer that owns variables *and* holds layers that do, or whose layers run inside a loop of
    its own (TimeDistributed), is tapped as a whole; recurrent layers are tapped before theirs.

    Raises:
        UserError: If a trainable variable belongs to no layer, so that no rule would see it.
    """
    sites = Sites(model)
    covered = {id(v) for site in sites for v in site.trainable_variables}
    for variable in model.trainable_variables:
        if id(variable) not in covered:
            raise UserError(
                f"model: trainable variable '{variable.path}' belongs to no Keras layer, so its "
                "per-example gradient cannot be taken. Create it with add_weight inside a layer."
            )
    return sites
