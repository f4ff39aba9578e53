"""Which layer a node of a graph belongs to, read from its name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

import keras


@dataclass(frozen=True)
class NodeLayers:
    """Finds a model's layers in the names of nodes, which Keras begins with those of layers."""

    model: keras.Model

    @cached_property
    def _names(self) -> set[str]:
        return {layer.name for layer in self.model._flatten_layers(include_self=False)}

    def path_in(self, node: str) -> str:
        """Names of the layers that a node lies in, from outer to inner; "" if there are none."""
        scopes = node.split("/")
        # Names that a graph has already are numbered: a model's, and then those within it.
        numbered = self.model.name not in scopes and any(
            _unnumbered(scope) == self.model.name for scope in scopes
        )
        found = (self._layer_at(scope, numbered) for scope in scopes)
        return "/".join(name for name in found if name)

    def _layer_at(self, scope: str, numbered: bool) -> str:
        candidates = [scope, _unnumbered(scope)]
        if numbered:
            candidates.reverse()
        return next((name for name in candidates if name in self._names), "")


def _unnumbered(name: str) -> str:
    return re.sub(r"_\d+$", "", name)
