"""What a fit's callbacks learn of training examples: Keras' loggers everything, all others nothing.

Losses and metrics of training examples are bare. Whoever writes them down for the operator changes
no weight; a callback that stops training, or sets a learning rate, because of them makes the
weights depend on examples in a way that epsilon does not count. A user's callback may do either,
and which cannot be told from outside: so it is shown what epsilon covers, unless the user says that
it may see the rest.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from typing import Any

import keras

from configs.schema import UserError

# These write down what they are shown. Of a class derived from one of them nobody knows.
_LOGGERS = (
    keras.callbacks.CSVLogger,
    keras.callbacks.History,
    keras.callbacks.ProgbarLogger,
    keras.callbacks.RemoteMonitor,
    keras.callbacks.TensorBoard,
)


def callbacks_given(callbacks: Any) -> list[Any]:
    """What a user gave to `fit`, as a list.

    Args:
        callbacks: None, a callback, a nest of them or a `keras.callbacks.CallbackList`.

    Raises:
        UserError: For a `CallbackList` of a class of its own, which could show them everything.
    """
    if isinstance(callbacks, keras.callbacks.CallbackList):
        if type(callbacks) is not keras.callbacks.CallbackList:
            raise UserError(
                "fit(callbacks=...): expected callbacks, or keras.callbacks.CallbackList itself. "
                f"Received: {type(callbacks).__name__}, whose way of calling them is unknown."
            )
        return list(callbacks.callbacks)
    return keras.tree.flatten(callbacks) if callbacks else []


def called_in_fit(
    given: list[Any],
    model: keras.Model,
    hidden: Callable[[], Collection[str]] | None,
    **further: Any,
) -> keras.callbacks.CallbackList:
    """The callbacks that `fit` calls, a `History` among them.

    Args:
        given: Those of the user.
        model: The model they see; until training ends, `model.history` lacks what is hidden.
        hidden: Gives the names of `logs` that are bare measurements of training examples, to be
            shown to loggers alone; None shows them to all, and says so.
        further: As `keras.callbacks.CallbackList` takes it.
    """
    if hidden is None:
        names = [type(callback).__name__ for callback in given if type(callback) not in _LOGGERS]
        if names:
            logging.warning(
                "fit(callbacks=[%s]): shown bare measurements of training examples "
                "(callbacks_see_training_metrics). Epsilon covers the weights only if none of "
                "these callbacks acts on training because of them.",
                ", ".join(names),
            )
        return keras.callbacks.CallbackList(given, add_history=True, model=model, **further)
    shown = keras.callbacks.History()
    listed = [Shielded(shown, hidden)]
    for callback in given:
        listed.append(callback if type(callback) in _LOGGERS else Shielded(callback, hidden))
    # Each `History` makes itself the model's at an epoch's end: those that see all come last.
    listed.sort(key=lambda callback: type(callback) is keras.callbacks.History)
    listed.append(_WholeHistory(shown))
    called = keras.callbacks.CallbackList(listed, add_history=False, model=model, **further)
    model.history = shown
    return called


class _WholeHistory(keras.callbacks.History):
    """Sees everything, and is the model's once training has ended; until then what is shown is."""

    def __init__(self, shown: keras.callbacks.History):
        super().__init__()
        self._shown = shown

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        super().on_epoch_end(epoch, logs)
        self.model.history = self._shown

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self.model.history = self


def history_of(called: keras.callbacks.CallbackList) -> keras.callbacks.History:
    """The `History` that saw everything."""
    (*_, history) = (c for c in called.callbacks if isinstance(c, keras.callbacks.History))
    return history


class Shielded:
    """A callback whose `logs` in training lack what epsilon does not cover; else itself.

    Not shielded from: what it reads elsewhere (the model's metrics, training examples).

    Args:
        callback: The callback.
        hidden: As in `called_in_fit`.
    """

    def __init__(self, callback: Any, hidden: Callable[[], Collection[str]]):
        self._callback, self._hidden = callback, hidden
        self._told: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._callback, name)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._call(self._callback.on_train_batch_end, logs, batch)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._call(self._callback.on_epoch_end, logs, epoch)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self._call(self._callback.on_train_end, logs)

    def _call(self, hook: Callable[..., None], logs: dict[str, Any] | None, *number: int) -> None:
        everything = {} if logs is None else logs
        asking = type(self._callback).__name__
        seen = CoveredLogs(everything, self._hidden(), asking, self._told)
        hook(*number, seen)
        # A callback may measure validation by itself, for callbacks after it to act on.
        everything.update(seen)


class CoveredLogs(dict[str, Any]):
    """`logs` without measurements of training examples; asking for one says why it is not there.

    Args:
        logs: All of them.
        hidden: Names of those to leave out.
        asking: The callback's class.
        told: Names it was told about already, which grow.
    """

    def __init__(
        self, logs: Mapping[str, Any], hidden: Collection[str], asking: str, told: set[str]
    ):
        super().__init__({name: value for name, value in logs.items() if name not in hidden})
        self._left_out = frozenset(hidden) & frozenset(logs)
        self._asking, self._told = asking, told

    def __bool__(self) -> bool:
        # For `logs or {}`, which would otherwise exchange these for a dict that says nothing.
        return bool(len(self) or self._left_out)

    def __missing__(self, name: str) -> Any:
        if name in self._left_out:
            raise UserError(self._why_not(name))
        raise KeyError(name)

    def get(self, name: str, default: Any = None) -> Any:
        """As a dict's; says it where the default stands for what is left out."""
        if name in self._left_out - self._told and name not in self:
            self._told.add(name)
            logging.warning("%s", self._why_not(name))
        return super().get(name, default)

    def _why_not(self, name: str) -> str:
        return (
            f"fit(callbacks=[{self._asking}]): logs[{name!r}] is a bare measurement of training "
            "examples, and a callback that acted on it would void epsilon. Read validation "
            f"(val_{name}, with validation_data), or give "
            "make_private(callbacks_see_training_metrics=True) if the callback only writes it down."
        )
