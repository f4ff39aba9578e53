"""What functions and callbacks of a user's do, as far as can be seen: names random streams.

Two seeded fits that differ in them must not share noise, or the difference of their weights has
none. Seen are a function's bytecode, constants, defaults and what it encloses, and an object's
class, methods, settings and attributes, down to some depth. Not seen is what else they call: the
`seed` of `make_private` says what follows from that.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from training.privacy.keras_api.layers import layers_of

# Of a callback's list of objects' settings, say, and some more.
_DEPTH = 6
# What a callback gets from `fit`: the model, how long and how loud. None is a setting of its own.
_GIVEN_BY_FIT = ("_model", "params", "_params", "validation_data")
_PLAIN = (bool, int, float, str, type(None))
# These look on and save; where they do so is no part of what is trained.
_ONLOOKERS = (
    keras.callbacks.History,
    keras.callbacks.ProgbarLogger,
    keras.callbacks.TensorBoard,
    keras.callbacks.ModelCheckpoint,
    keras.callbacks.CSVLogger,
    keras.callbacks.BackupAndRestore,
)


def named(thing: Any) -> Any:
    """What tells `thing` from another, for `json.dumps`; the same in every process."""
    return _held(thing, _DEPTH, {})


def named_class(kind: type) -> Any:
    """A class by its name and by the methods that it and its bases outside of Keras define."""
    foreign = ("keras.", "builtins.")
    own = [base for base in kind.__mro__ if not _class_name(base).startswith(foreign)]
    methods = [
        [name, _code(value.__code__)]
        for base in own
        for name, value in sorted(vars(base).items())
        if isinstance(value, FunctionType)
    ]
    return [_class_name(kind), methods]


def named_callbacks(callbacks: Iterable[Any]) -> list[Any]:
    """Callbacks that may act on training, in order, each by its class and its attributes."""
    return [
        [named_class(type(callback)), named(_but(vars(callback), _GIVEN_BY_FIT))]
        for callback in callbacks
        if type(callback) not in _ONLOOKERS
    ]


def _held(value: Any, depth: int, seen: dict[int, tuple[int, Any]]) -> Any:
    """`named` down to `depth`; what was met before (it may hold itself) by when it was.

    Args:
        value: Anything.
        depth: Levels that are still looked into; below, the class alone.
        seen: The functions and objects met so far, by id, kept so that no id is given twice.
    """
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, (bytes, complex, range, slice)):
        return repr(value)
    if isinstance(value, type):
        return named_class(value)
    numbers = _numbers(value)
    if numbers is not None and numbers.dtype != object:
        digest = hashlib.blake2b(numbers.tobytes(), digest_size=16)
        return [str(numbers.dtype), numbers.shape, digest.hexdigest()]
    if depth == 0 or isinstance(value, ModuleType):
        return getattr(value, "__name__", _class_name(type(value)))
    hold = functools.partial(_held, depth=depth - 1, seen=seen)
    if numbers is not None:
        return [numbers.shape, hold(numbers.tolist())]
    if isinstance(value, (Mapping, list, tuple, deque, set, frozenset)):
        return _contained(value, hold)
    if id(value) in seen:
        return ["again", seen[id(value)][0]]
    seen[id(value)] = len(seen), value
    return _made_of(value, hold)


def _contained(value: Any, hold: Callable[[Any], Any]) -> list[Any]:
    """What a container holds; in an order that does not hang on the process."""
    if isinstance(value, Mapping):
        return sorted(([hold(k), hold(v)] for k, v in value.items()), key=json.dumps)
    if isinstance(value, (set, frozenset)):
        return sorted((hold(item) for item in value), key=json.dumps)
    return [hold(item) for item in value]


def _made_of(value: Any, hold: Callable[[Any], Any]) -> list[Any]:
    """What a function computes, or an object is and consists of."""
    if isinstance(value, FunctionType):
        enclosed = [_contents(cell) for cell in value.__closure__ or ()]
        given = [value.__defaults__, value.__kwdefaults__]
        return [_code(value.__code__), *map(hold, given), *map(hold, enclosed)]
    if isinstance(value, MethodType):
        return [hold(value.__func__), hold(value.__self__)]
    if isinstance(value, functools.partial):
        return [hold(value.func), hold(value.args), hold(value.keywords)]
    return [named_class(type(value)), *map(hold, _parts(value))]


def _numbers(value: Any) -> np.ndarray | None:
    """An array's, a tensor's or a variable's; none where it is none or holds no numbers yet."""
    if isinstance(value, (np.ndarray, np.generic)):
        return np.asarray(value)
    if isinstance(value, keras.Variable):
        return np.asarray(keras.ops.convert_to_numpy(value))
    if isinstance(value, tf.Variable) or (
        tf.is_tensor(value)
        and hasattr(value, "numpy")
        and value.dtype not in (tf.variant, tf.resource)
    ):
        return np.asarray(value.numpy())
    return None


def _parts(value: Any) -> list[Any]:
    """What an object consists of, as far as it says."""
    kind = _class_name(type(value))
    if isinstance(value, keras.Layer):
        return [layers_of(value), [np.asarray(w) for w in value.get_weights()]]
    parts = []
    if hasattr(value, "get_config") and hasattr(value, "from_config"):
        with contextlib.suppress(NotImplementedError):  # Keras's own answer for what does not say
            parts.append(_but(value.get_config(), ("name",)))
    # Keras's own objects say all in their settings, but for functions, which they give by name.
    keeps = isinstance(value, keras.losses.Loss) or not kind.startswith(("keras.", "tensorflow."))
    if keeps and hasattr(value, "__dict__"):
        parts.append(_but(vars(value), ("name",)))
    return parts


def _but(settings: Mapping[str, Any], left_out: Iterable[str]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key not in left_out}


def _class_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _contents(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # Python's own answer for a variable that has no value yet
        return None


def _code(code: CodeType) -> str:
    digest = hashlib.blake2b(code.co_code, digest_size=16)
    for constant in code.co_consts:
        digest.update(_constant(constant).encode())
    digest.update(repr((code.co_names, code.co_varnames, code.co_freevars)).encode())
    return digest.hexdigest()


def _constant(value: Any) -> str:
    if isinstance(value, CodeType):
        return _code(value)
    # A set's order differs from process to process.
    return repr(sorted(map(repr, value))) if isinstance(value, frozenset) else repr(value)
