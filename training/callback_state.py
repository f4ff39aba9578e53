"""What Keras callbacks remember (best value, patience used up, best weights), saved and put back.

Keras has no protocol for it: a callback's state is its numeric attributes, and a list of arrays
named `best_weights`. What its constructor takes is the recipe's, not state, and is left alone.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

_BEST_WEIGHTS = "best_weights"


@dataclass(frozen=True)
class CallbackState:
    """The state of a list of callbacks.

    Attributes:
        numbers: Callback (place in the list and class) -> attribute -> number; fit for JSON.
        arrays: Callback, "/" and a number of five digits -> one of its best weights.
    """

    numbers: dict[str, dict[str, Any]] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def of(cls, callbacks: Sequence[keras.callbacks.Callback]) -> CallbackState:
        """Takes down what the callbacks remember now."""
        state = cls()
        for name, callback in _named(callbacks):
            state.numbers[name] = _numbers(callback)
            for i, weight in enumerate(getattr(callback, _BEST_WEIGHTS, None) or ()):
                state.arrays[f"{name}/{i:05d}"] = np.asarray(weight)
        return state

    def restore(self, callbacks: Sequence[keras.callbacks.Callback]) -> None:
        """Puts it back; to be called after `on_train_begin`, at which callbacks forget."""
        for name, callback in _named(callbacks):
            vars(callback).update(self.numbers.get(name, {}))
            weights = [
                self.arrays[key] for key in sorted(self.arrays) if key.startswith(f"{name}/")
            ]
            if weights:
                setattr(callback, _BEST_WEIGHTS, weights)


def _named(
    callbacks: Sequence[keras.callbacks.Callback],
) -> list[tuple[str, keras.callbacks.Callback]]:
    return [(f"{i} {type(callback).__name__}", callback) for i, callback in enumerate(callbacks)]


def _numbers(callback: keras.callbacks.Callback) -> dict[str, Any]:
    settings = inspect.signature(type(callback).__init__).parameters
    return {
        key: value.item() if isinstance(value, np.generic) else value
        for key, value in vars(callback).items()
        if isinstance(value, (bool, int, float, np.number)) and key not in settings
    }
