"""What functions and callbacks of a user's do, as far as can be seen: names random streams.

Two seeded fits that differ in them must not share noise, or the difference of their weights has
none. Seen are a function's bytecode, constants, defaults and what it encloses, and a callback's
class, methods and plain settings. Not seen is what else they call: the `seed` of `make_private`
says what follows from that.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable
from types import CodeType, FunctionType, MethodType
from typing import Any

import keras
import numpy as np

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
    if isinstance(thing, _PLAIN):
        return thing
    if isinstance(thing, FunctionType):
        enclosed = [_contents(cell) for cell in thing.__closure__ or ()]
        given = [*(thing.__defaults__ or ()), *(thing.__kwdefaults__ or {}).items()]
        return [_code(thing.__code__), *map(_held, given), *map(_held, enclosed)]
    if isinstance(thing, MethodType):
        return [named(thing.__func__), _class_name(type(thing.__self__))]
    if isinstance(thing, functools.partial):
        held = [*thing.args, *sorted(thing.keywords.items())]
        return [named(thing.func), *map(_held, held)]
    return _held(thing)


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
    """Callbacks that may act on training, in order, each by its class and its plain settings."""
    return [
        [
            named_class(type(callback)),
            {
                name: named(value)
                for name, value in sorted(vars(callback).items())
                if not name.startswith("_") and (isinstance(value, _PLAIN) or callable(value))
            },
        ]
        for callback in callbacks
        if type(callback) not in _ONLOOKERS
    ]


def _held(value: Any) -> Any:
    """A value as it is, a function by its code alone (it may enclose itself), else the class."""
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, (np.ndarray, np.generic)):
        return [str(value.dtype), value.shape, hashlib.blake2b(value.tobytes()).hexdigest()]
    if isinstance(value, (list, tuple)):
        return [item if isinstance(item, _PLAIN) else _class_name(type(item)) for item in value]
    if isinstance(value, FunctionType):
        return _code(value.__code__)
    return _class_name(value if isinstance(value, type) else type(value))


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
