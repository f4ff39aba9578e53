"""Training examples by number: arrays in memory or on disk, or any sequence of examples.

Sampling needs any example at any step, so what is trained on privately must be reachable by
index and of known size. A stream (a generator, a batched `tf.data.Dataset`, a loader) is neither; a
`tf.data` pipeline of single examples becomes it by being read through (`streams`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from configs.schema import UserError
from data.example_codec import as_array
from data.store import ExampleStore
from training.privacy.keras_api.losses import Weighted
from training.privacy.users import UserRows

_DIGESTED_ROWS = 4096
# Of examples that are read one by one, and may be large.
_READ_ROWS = 64

# One example as it lies in the source -> (inputs, labels) or (inputs, labels, weight).
Transform = Callable[[Any], tuple[Any, ...]]


@dataclass(frozen=True)
class Source:
    """Random access to training examples.

    Attributes:
        num_examples: How many there are.
        read: Positions int64 (k,) -> {"inputs": ..., "labels": ...}, a nest of arrays (k, ...).
        digest: Tells sources apart by all of their examples: arrays and stores by their bytes, not
            by what a transform makes of them; other sequences by what reading them gives.
        transformed: Whether a transform makes what `read` gives.
        users: Whose each example is; None where nobody said.
    """

    num_examples: int
    read: Callable[[np.ndarray], dict[str, Any]]
    digest: Callable[[], str] = str
    transformed: bool = False
    users: UserRows | None = None

    def content(self) -> str:
        """Tells sources apart by what training sees: examples as transformed, and their users."""
        if not self.transformed:
            return self.digest()
        read = digest_of_reading(self)
        return read if self.users is None else _with_users(read, self.users)

    def of_users(self, users: Any) -> Source:
        """The same examples, each known to be some user's.

        Args:
            users: (n,), the user of each example: whole numbers or texts, none missing.

        Raises:
            UserError: If a user is missing, or they are something else.
        """
        values = np.asarray(users)
        plain = values.dtype.kind in "iuUSO" and values.shape == (self.num_examples,)
        names = values.tolist() if plain else []
        if not plain or any(not isinstance(n, (int, str, bytes)) or n in ("", b"") for n in names):
            raise UserError(
                f"users: expected the user of each of {self.num_examples} examples, a whole number "
                f"or a text, none missing. Received: {values.dtype} of shape {values.shape}"
            )
        number = {name: i for i, name in enumerate(dict.fromkeys(names))}
        users = UserRows(np.array([number[name] for name in names], np.int64))
        return replace(self, users=users, digest=lambda: _with_users(self.digest(), users))


def source_of(
    x: Any,
    y: Any = None,
    sample_weight: Any = None,
    class_weight: Mapping[int, float] | None = None,
    transform: Transform | None = None,
) -> Source:
    """The examples of what a user hands to `fit`.

    Args:
        x: An array (n, ...), a dict, list or tuple of such arrays; or, with `y` none, a sequence
            of known length whose item i is example i as `(inputs, labels)`.
        y: Labels (n, ...).
        sample_weight: float (n,): weight i belongs to example i, and may depend on it alone.
        class_weight: Public weight of each class; labels are then class ids (n,).
        transform: Applied to every example on its own, so that it cannot mix them.

    Raises:
        UserError: If this is no random access, or has no known size; says what to do.
    """
    _refuse_streams(x)
    if not _is_array_nest(x):
        if y is not None or sample_weight is not None or class_weight is not None:
            raise UserError(
                f"fit(x, y): y and weights belong to arrays; {type(x).__name__} is read example "
                "by example. Give each item as (inputs, labels) or (inputs, labels, weight)."
            )
        return _of_sequence(x, transform or _as_it_is)
    if y is None:
        raise UserError("fit(x, y): y is missing. Give the labels as an array of their own.")
    weights = _weights(y, sample_weight, class_weight)
    # Keras, too, hands several inputs on as a tuple: tf.data takes a list for one array.
    x, y = keras.tree.lists_to_tuples((x, y))
    arrays = keras.tree.map_structure(_array, {"x": x, "y": y, "w": weights})
    sizes = {len(leaf) for leaf in keras.tree.flatten(arrays) if leaf is not None}
    if len(sizes) != 1:
        raise UserError(
            "fit(x, y): all arrays must have one row an example. Received rows: "
            f"{', '.join(str(size) for size in sorted(sizes))}"
        )
    if transform is not None:
        return _of_sequence(_Rows(arrays), transform)
    return Source(
        sizes.pop(),
        lambda rows: _record(
            _taken(arrays["x"], rows),
            _taken(arrays["y"], rows),
            None if weights is None else weights[rows],
        ),
        lambda: _digest(arrays),
    )


def _taken(arrays: Any, rows: np.ndarray) -> Any:
    return keras.tree.map_structure(lambda leaf: _plain(leaf[rows]), arrays)


def source_of_columns(columns: Any, transform: Transform | None) -> Source:
    """The examples of a nest of arrays (n, ...), whose row i is example i as a stream gave it."""
    if transform is not None or not isinstance(columns, tuple) or len(columns) not in (2, 3):
        return _of_sequence(_Columns(columns), transform or _as_it_is)
    return source_of(columns[0], columns[1], columns[2] if len(columns) == 3 else None)


@dataclass(frozen=True)
class _Columns:
    """A nest of arrays (n, ...) as a sequence of nests."""

    arrays: Any

    def __len__(self) -> int:
        return len(tf.nest.flatten(self.arrays)[0])

    def __getitem__(self, row: int) -> Any:
        return tf.nest.map_structure(lambda leaf: leaf[row], self.arrays)


@dataclass(frozen=True)
class _Rows:
    """Arrays as a sequence of examples."""

    arrays: dict[str, Any]

    def __len__(self) -> int:
        return len(keras.tree.flatten(self.arrays["x"])[0])

    def __getitem__(self, row: int) -> tuple[Any, ...]:
        taken = [
            keras.tree.map_structure(lambda leaf: leaf[row], self.arrays[part])
            for part in ("x", "y", "w")
            if self.arrays[part] is not None
        ]
        return tuple(taken)


def _of_sequence(sequence: Any, transform: Transform) -> Source:
    take_many = getattr(sequence, "__getitems__", None)

    def read(rows: np.ndarray) -> dict[str, Any]:
        positions = [int(row) for row in rows]
        items = take_many(positions) if take_many else [sequence[row] for row in positions]
        records = [_record(*_checked(transform(item))) for item in items]
        return tf.nest.map_structure(lambda *leaves: _plain(np.stack(leaves)), *records)

    transformed = transform is not _as_it_is
    if isinstance(sequence, (_Rows, _Columns)):
        return Source(len(sequence), read, lambda: _digest(sequence.arrays), transformed)
    if isinstance(sequence, ExampleStore):
        return Source(len(sequence), read, lambda: sequence.digest, transformed)
    source = Source(len(sequence), read)
    return replace(source, digest=lambda: digest_of_reading(source))


def _as_it_is(item: Any) -> Any:
    return tuple(item) if isinstance(item, list) else item


def _checked(example: Any) -> tuple[Any, ...]:
    if isinstance(example, tuple) and len(example) in (2, 3):
        return tuple(keras.tree.map_structure(as_array, part) for part in example)
    raise UserError(
        "training examples: each must be (inputs, labels) or (inputs, labels, weight); make it so "
        f"with private_dataset(..., transform=...). Received: {type(example).__name__}"
    )


def _record(inputs: Any, labels: Any, weight: Any = None) -> dict[str, Any]:
    return {"inputs": inputs, "labels": labels if weight is None else Weighted(labels, weight)}


def _refuse_streams(x: Any) -> None:
    if x is None:
        raise UserError("fit(x, y): x is missing. Give arrays, or a sequence of examples.")
    if isinstance(x, tf.data.Dataset):
        raise UserError(
            "fit(x): a tf.data.Dataset is a stream, and the plan draws its batches from anywhere. "
            "Give it to fit, or to private_dataset(plan, x), which read it through."
        )
    if isinstance(x, keras.utils.PyDataset):
        raise UserError(
            f"fit(x): {type(x).__name__} gives batches of its own making, and the plan must draw "
            "them. Give its examples one by one: an object with len() and [i]."
        )
    if not (hasattr(x, "__len__") and (hasattr(x, "__getitem__") or hasattr(x, "shape"))):
        raise UserError(
            f"fit(x): the number of training examples in {type(x).__name__} is unknown, and "
            "epsilon depends on it. Give arrays, or an object with len() and [i]."
        )


def _is_array_nest(x: Any) -> bool:
    """Whether `x` is an array, or a dict, list or tuple of arrays: one model input each."""
    leaves = keras.tree.flatten(x)
    return bool(leaves) and all(hasattr(leaf, "shape") and len(leaf.shape) for leaf in leaves)


def _array(values: Any) -> Any:
    if values is None:
        return None
    return values if isinstance(values, np.ndarray) else np.asarray(values)


def _plain(array: np.ndarray) -> np.ndarray:
    """Double precision as Keras takes it, in its own default; text as TensorFlow takes it."""
    if array.dtype.kind in "US":
        return array.astype(object)
    return array.astype(keras.config.floatx()) if array.dtype == np.float64 else array


def _weights(
    y: Any, sample_weight: Any, class_weight: Mapping[int, float] | None
) -> np.ndarray | None:
    if sample_weight is None and class_weight is None:
        return None
    if sample_weight is not None and class_weight is not None:
        raise UserError("fit: give sample_weight or class_weight, not both.")
    labels = np.asarray(y)
    if class_weight is not None:
        if labels.ndim != 1 or labels.dtype.kind not in "iu":
            raise UserError(
                "fit(class_weight=...): expected y as class ids (n,). Received: y of shape "
                f"{labels.shape} and type {labels.dtype}"
            )
        return np.array([class_weight.get(int(label), 1.0) for label in labels], np.float32)
    weights = np.asarray(sample_weight)
    if weights.shape != labels.shape[:1] or weights.dtype.kind not in "iuf":
        raise UserError(
            "fit(sample_weight=...): expected one number an example, which may depend on that "
            "example alone: weights that depend on the rest of its batch would void epsilon. "
            f"Received: shape {weights.shape} and type {weights.dtype} for {len(labels)} examples"
        )
    return weights.astype(np.float32)


def digest_of_reading(source: Source) -> str:
    """Tells sources apart by reading every example, in order, some at a time."""
    digest = hashlib.blake2b(digest_size=16)
    for start in range(0, source.num_examples, _READ_ROWS):
        rows = np.arange(start, min(start + _READ_ROWS, source.num_examples))
        for leaf in tf.nest.flatten(source.read(rows)):
            digest.update(_bytes_of(leaf))
    return digest.hexdigest()


def _with_users(digest: str, users: UserRows) -> str:
    """Users decide what is clipped together, and no example says whose it is."""
    whose = hashlib.blake2b(users.users.tobytes(), digest_size=16).hexdigest()
    return f"{digest} of users {whose}"


def _digest(arrays: Any) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for leaf in keras.tree.flatten(arrays):
        for start in range(0, 0 if leaf is None else len(leaf), _DIGESTED_ROWS):
            digest.update(_bytes_of(leaf[start : start + _DIGESTED_ROWS]))
    return digest.hexdigest()


def _bytes_of(rows: np.ndarray) -> bytes:
    return repr(rows.tolist()).encode() if rows.dtype == object else rows.tobytes()
