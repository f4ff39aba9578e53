"""An example, a nest of arrays, as the bytes of one record, and back to the last bit.

What all examples of a store have in common (structure, dtypes, shapes) is not in the bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from configs.schema.errors import UserError

# Name of a leaf's dtype, and its shape.
Form = tuple[str, tuple[int, ...]]
TEXT = "string"
LENGTH = struct.Struct("<Q")


def taken_apart(example: Any) -> tuple[Any, list[np.ndarray]]:
    """Returns the nest with leaf numbers in place of its arrays, and the arrays.

    Raises:
        UserError: A part is neither numbers nor text.
    """
    arrays: list[np.ndarray] = []

    def visit(part: Any) -> Any:
        if isinstance(part, Mapping):
            return {key: visit(part[key]) for key in sorted(part)}
        if type(part) in (tuple, list):
            return type(part)(visit(item) for item in part)
        arrays.append(as_array(part))
        return len(arrays) - 1

    return visit(example), arrays


def as_array(part: Any) -> np.ndarray:
    """Returns numbers as they are, text as an object array of bytes or str.

    Raises:
        UserError: It is neither.
    """
    if isinstance(part, (bytes, str)):
        # NumPy's own text drops zero bytes at the end, of which an encoded image may have some.
        array = np.empty((), object)
        array[()] = part.encode() if isinstance(part, str) else part
        return array
    array = np.asarray(part)
    if array.dtype.kind in "SU":
        return array.astype(object)
    if array.dtype == object and not all(isinstance(item, (bytes, str)) for item in array.flat):
        raise UserError(
            f"an example holds a {type(part).__name__}. Expected numbers, text, and dicts, tuples "
            "and lists of them, all of fixed shapes."
        )
    return array


def packed(template: Any, arrays: Sequence[np.ndarray]) -> Any:
    """Puts arrays back into the nest they were taken from."""
    if isinstance(template, dict):
        return {key: packed(part, arrays) for key, part in template.items()}
    if isinstance(template, (tuple, list)):
        return type(template)(packed(part, arrays) for part in template)
    return arrays[template]


def to_card(template: Any) -> Any:
    """Returns a template as JSON, which has no tuples: as [kind, parts]."""
    if isinstance(template, dict):
        return ["dict", {key: to_card(part) for key, part in template.items()}]
    if isinstance(template, (tuple, list)):
        return [type(template).__name__, [to_card(part) for part in template]]
    return template


def from_card(card: Any) -> Any:
    """Returns the template that `to_card` was given."""
    if not isinstance(card, list):
        return card
    kind, parts = card
    if kind == "dict":
        return {key: from_card(part) for key, part in parts.items()}
    return {"tuple": tuple, "list": list}[kind](map(from_card, parts))


def form_of(array: np.ndarray) -> Form:
    """Returns name of the dtype, and shape."""
    return (TEXT if array.dtype == object else array.dtype.name), array.shape


def encoded(arrays: Iterable[np.ndarray]) -> bytes:
    """Numbers as their bytes, of known length; of text each item after its length."""
    parts: list[bytes] = []
    for array in arrays:
        if array.dtype != object:
            parts.append(array.tobytes())
            continue
        for item in array.ravel():
            content = item if isinstance(item, bytes) else item.encode()
            parts += [LENGTH.pack(len(content)), content]
    return b"".join(parts)


def decoded(record: bytes, leaves: Sequence[Form]) -> list[np.ndarray]:
    """Returns the arrays of these forms that `encoded` was given."""
    arrays, offset = [], 0
    for dtype, shape in leaves:
        count = int(np.prod(shape))
        if dtype != TEXT:
            numbers = np.frombuffer(record, _numpy_dtype(dtype), count, offset)
            arrays.append(numbers.reshape(shape))
            offset += numbers.nbytes
            continue
        items = np.empty(count, object)
        for position in range(count):
            (length,) = LENGTH.unpack_from(record, offset)
            offset += LENGTH.size + length
            items[position] = record[offset - length : offset]
        arrays.append(items.reshape(shape))
    return arrays


def _numpy_dtype(name: str) -> np.dtype:
    import ml_dtypes  # bfloat16 and the like are known to NumPy by name once it is imported

    return np.dtype(getattr(ml_dtypes, name, name))


def in_words(leaves: Sequence[Form]) -> str:
    """Returns dtypes and shapes for a message."""
    return ", ".join(f"{dtype}{list(shape)}" for dtype, shape in leaves)
