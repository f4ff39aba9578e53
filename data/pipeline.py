"""From a split to a `tf.data` stream of fixed-shape batches.

Promises: text and feature vectors are preprocessed once, in parallel, and kept as arrays, or with
`data.cache: none`, and images always, stay where they lie and are read and prepared batch by batch,
in parallel, ahead of the consumer; the batches are the same to the last bit.
Every batch has the same static shapes; a batch that is not full, or empty, is padded with rows
whose `mask` is False and whose id is -1. The order of batches is that of the index batches, always.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import tensorflow as tf

from data.contracts import PADDING, Batch, Split

Preprocess = Callable[[tf.Tensor], Mapping[str, tf.Tensor]]
"""Raw examples, as `data.contracts.Examples.raw`, to named model inputs, inside the graph."""


class Rows(Protocol):
    """What is indexed like an array (n, ...): a numpy array, or rows computed on first use."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def __getitem__(self, positions: np.ndarray) -> np.ndarray: ...


_CHUNK_EXAMPLES = 512
# Most that batches read ahead may take: left alone, tf.data would go as far as half the memory.
_READ_AHEAD_BYTES = 1 << 30
# What tf.numpy_function calls is no graph code: AutoGraph would rewrite it, and slow it down. It
# rewrites functions with all that is defined in them, so this belongs around the outermost.
_plain_python = tf.autograph.experimental.do_not_convert
# Preprocessed text and vectors are no larger than the examples themselves; decoded images are.
_KEPT_IN_MEMORY = {"text": True, "features": True, "image": False}


@dataclass(frozen=True)
class PreparedSplit:
    """A split together with the way its examples become model inputs.

    Attributes:
        split: The split.
        preprocess: Raw examples to model inputs.
        inputs: Input name -> (n, ...), every example preprocessed; None where examples are
            preprocessed batch by batch.
    """

    split: Split
    preprocess: Preprocess
    inputs: Mapping[str, Rows] | None

    @property
    def labels(self) -> np.ndarray:
        """Labels, int32 (n,)."""
        return self.split.labels

    @property
    def groups(self) -> Mapping[str, np.ndarray]:
        """Attribute -> int32 (n,)."""
        return self.split.groups

    def __len__(self) -> int:
        return len(self.split)


def prepare(
    split: Split, preprocess: Preprocess, cache: Literal["memory", "none"] = "memory"
) -> PreparedSplit:
    """Readies a split for a model; tokenises all of a text split, in parallel.

    Args:
        split: The split.
        preprocess: A model's preprocessor (`models.contracts.Preprocessor`), or any callable on a
            batch of raw examples that TensorFlow can trace. What it makes of an example must not
            depend on the batch around it.
        cache: `data.cache`: with `none` nothing is prepared now, and nothing kept.
    """
    keep = cache == "memory" and _KEPT_IN_MEMORY[split.info.modality]
    return PreparedSplit(split, preprocess, _preprocess_all(split, preprocess) if keep else None)


def batches_in_order(
    prepared: PreparedSplit, batch_size: int, *, index: int = 0, count: int = 1
) -> tf.data.Dataset:
    """Returns every example once, in order, as batches (`data.contracts.Batch`).

    The cardinality is known; the last batch is padded.

    Args:
        prepared: The examples.
        batch_size: Rows of every batch.
        index, count: Only every `count`-th batch, from number `index` on; the others are not read.
    """
    rows = tf.range(batch_size, dtype=tf.int64)

    def ids_from(start: tf.Tensor) -> tf.Tensor:
        ids = start + rows
        return tf.where(ids < len(prepared), ids, PADDING)

    starts = tf.data.Dataset.range(0, len(prepared), batch_size).shard(count, index)
    return _batches(prepared, starts.map(ids_from))


def batches_of(
    prepared: PreparedSplit, index_batches: Callable[[], Iterator[np.ndarray]], batch_size: int
) -> tf.data.Dataset:
    """Returns the batches (`data.contracts.Batch`) that an iterator of indices asks for.

    The iterator runs ahead of the consumer, because batches are prefetched: a position to be
    saved must be counted by the consumer, never read off the iterator.

    Args:
        prepared: The examples; at least one.
        index_batches: Called once per pass; yields int64 (batch_size,) positions in the split, -1
            where the row is padding. Rows of padding repeat example 0 under a False mask.
        batch_size: Rows of every batch.

    Raises:
        ValueError: There is no example.
        tf.errors.InvalidArgumentError: While iterating: an index batch has another size, or names
            an example that does not exist.
        tf.errors.UnknownError: While iterating: an example cannot be read; `data.faults.fault_in`
            finds the line that names it.
    """
    if not len(prepared):
        raise ValueError(f"The {prepared.split.name} split is empty: no batch can be drawn from it")
    signature = tf.TensorSpec((batch_size,), tf.int64)
    return _batches(
        prepared, tf.data.Dataset.from_generator(index_batches, output_signature=signature)
    )


def batch_at(prepared: PreparedSplit, ids: np.ndarray) -> Batch:
    """Returns the batch that `batches_of` gives for these indices, at once and without `tf.data`.

    A pipeline's own work on a batch, from Python to its threads and back, takes longer than to
    index arrays does.

    Args:
        prepared: The examples, prepared and in memory (`inputs` is there); at least one.
        ids: As an index batch of `batches_of`.

    Raises:
        ValueError: An index names an example that does not exist.
    """
    arrays = _in_memory(prepared)
    rows = _rows_at(tf.nest.flatten(arrays), ids, len(prepared))
    rows = [tf.convert_to_tensor(row) for row in rows]
    ids = tf.convert_to_tensor(ids)
    return _batch(ids, tf.nest.pack_sequence_as(arrays, rows))


def _batches(prepared: PreparedSplit, index_batches: tf.data.Dataset) -> tf.data.Dataset:
    options = tf.data.Options()
    options.deterministic = True
    options.autotune.ram_budget = _READ_AHEAD_BYTES
    complete = _from_disk if prepared.inputs is None else _from_memory
    return complete(prepared, index_batches).prefetch(tf.data.AUTOTUNE).with_options(options)


def _from_memory(prepared: PreparedSplit, index_batches: tf.data.Dataset) -> tf.data.Dataset:
    arrays = _in_memory(prepared)

    def gather(ids: tf.Tensor) -> dict[str, Any]:
        return _batch(ids, _take_in_graph(arrays, ids, len(prepared)))

    # Indexing arrays takes microseconds: threads of its own would cost more than they give.
    return index_batches.map(gather)


def _from_disk(prepared: PreparedSplit, index_batches: tf.data.Dataset) -> tf.data.Dataset:
    read = _reader(prepared.split)
    annotations = _annotations(prepared)

    def gather(ids: tf.Tensor) -> dict[str, Any]:
        rows = _take_in_graph(annotations, ids, len(prepared))
        inputs = prepared.preprocess(read(tf.maximum(ids, 0)))
        fixed = {
            name: tf.ensure_shape(value, [ids.shape[0], *value.shape[1:]])
            for name, value in inputs.items()
        }
        return _batch(ids, {"inputs": fixed, **rows})

    return index_batches.map(gather, num_parallel_calls=tf.data.AUTOTUNE)


def _in_memory(prepared: PreparedSplit) -> dict[str, Any]:
    return {"inputs": dict(prepared.inputs or {}), **_annotations(prepared)}


def _annotations(prepared: PreparedSplit) -> dict[str, Any]:
    return {"labels": prepared.labels, "groups": dict(prepared.groups)}


def _batch(ids: tf.Tensor, rows: dict[str, Any]) -> dict[str, Any]:
    return {**rows, "mask": ids >= 0, "ids": ids}


@_plain_python
def _take_in_graph(arrays: dict[str, Any], ids: tf.Tensor, examples: int) -> dict[str, Any]:
    """Indexes a nest of arrays (n, ...) held by Python, so that no graph copies them."""
    flat = tf.nest.flatten(arrays)

    def take(ids: np.ndarray) -> list[np.ndarray]:
        return _rows_at(flat, ids, examples)

    taken = tf.numpy_function(take, [ids], [tf.as_dtype(array.dtype) for array in flat])
    for tensor, array in zip(taken, flat, strict=True):
        tensor.set_shape([ids.shape[0], *array.shape[1:]])
    return tf.nest.pack_sequence_as(arrays, taken)


def _rows_at(arrays: list[Rows], ids: np.ndarray, examples: int) -> list[np.ndarray]:
    if ids.size and (ids.min() < PADDING or ids.max() >= examples):
        # Of all Python errors tf.numpy_function passes on ValueError most faithfully.
        raise ValueError(
            f"Indices must be in [-1, {examples}). Received: {ids.min()} .. {ids.max()}"
        )
    rows = np.maximum(ids, 0)
    return [array[rows] for array in arrays]


def _reader(split: Split) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns a graph function from int64 (k,) to the raw examples at these positions."""
    form = split.read(np.zeros(min(1, len(split)), np.int64)).raw
    dtype = tf.string if form.dtype == object else tf.as_dtype(form.dtype)

    @_plain_python
    def raw_of(ids: np.ndarray) -> np.ndarray:
        return split.read(ids).raw

    def read(ids: tf.Tensor) -> tf.Tensor:
        raw = tf.numpy_function(raw_of, [ids], dtype)
        raw.set_shape([ids.shape[0], *form.shape[1:]])
        return raw

    return read


def _preprocess_all(split: Split, preprocess: Preprocess) -> dict[str, np.ndarray]:
    read = _reader(split)

    def chunk_from(start: tf.Tensor) -> dict[str, tf.Tensor]:
        stop = tf.minimum(start + _CHUNK_EXAMPLES, len(split))
        return dict(preprocess(read(tf.range(start, stop))))

    chunks = tf.data.Dataset.range(0, len(split), _CHUNK_EXAMPLES).map(
        chunk_from, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )
    arrays = {
        name: np.empty((len(split), *spec.shape[1:]), spec.dtype.as_numpy_dtype)
        for name, spec in chunks.element_spec.items()
    }
    start = 0
    for chunk in chunks.prefetch(tf.data.AUTOTUNE).as_numpy_iterator():
        for name, values in chunk.items():
            stop = start + len(values)
            arrays[name][start:stop] = values
        start = stop
    return arrays
