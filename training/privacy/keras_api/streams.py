"""`tf.data` pipelines as training examples: read through once and kept where any can be reached.

A pipeline is a stream, and sampling needs any example at any step. So it is never sampled from as
it flows: every element is taken as one example and put, once, into memory or into a store on disk,
and the sampling that epsilon is computed for draws from there.

Guarantees:
    What is trained on has exactly as many examples as planned: counted, not believed. A pipeline
    that visibly gives batches, joins examples or gives some more than once is refused.

Not seen, and the user's to answer for: what functions given to `map`, `flat_map`, `filter` or a
generator do. One element must depend on one example's data alone, and nobody may be in two.

Not offered: drawing a stream's batches as they come (a pass an epoch, as `shuffled` or `cyclic`
sampling would). The proofs need each example's place to be independent of what the examples hold,
and the same in every pass; of a pipeline nobody can tell.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from configs.schema import UserError
from data.example_codec import taken_apart
from data.store import ExampleStore, StoreWriter, open_store

# What is kept in memory at most, where no directory is named.
IN_MEMORY_BYTES = 1 << 30

_UNBATCHES = ("UnbatchDataset",)
_BATCHES = (
    "BatchDataset",
    "ParallelBatchDataset",
    "MapAndBatchDataset",
    "PaddedBatchDataset",
    "DenseToSparseBatchDataset",
    "RebatchDataset",
)
_JOINS = ("WindowDataset", "GroupByWindowDataset", "GroupByReducerDataset", "ScanDataset")
_PAIRS = ("ZipDataset",)
_MOVES = ("FilterDataset", "ShardDataset", "SkipDataset")
_SHUFFLES = ("ShuffleDataset", "ShuffleAndRepeatDataset")
_REPEATS = ("RepeatDataset", "ShuffleAndRepeatDataset")
_MERGES = ("ConcatenateDataset", "DirectedInterleaveDataset")


def refuse_unsound(dataset: tf.data.Dataset, mark: str) -> None:
    """Refuses a pipeline whose elements are visibly no single examples, each there once.

    Args:
        dataset: Any pipeline.
        mark: Attribute that a `private_dataset` bears.

    Raises:
        UserError: Names what the pipeline does and what to do instead.
    """
    _refuse_batched_otherwise(dataset, mark)
    _refuse_repeated(dataset)
    if any(not isinstance(spec, tf.TensorSpec) for spec in tf.nest.flatten(dataset.element_spec)):
        raise UserError(
            "fit(x): elements of the tf.data.Dataset must be dense tensors, because examples are "
            f"stacked. Received: {dataset.element_spec}"
        )


def materialised(dataset: tf.data.Dataset, num_examples: int, directory: str | Path | None) -> Any:
    """Reads a pipeline through, once.

    Args:
        dataset: Elements are single examples, all of one structure and shape.
        num_examples: How many there must be.
        directory: Where a store is made; none keeps the examples in memory.

    Returns:
        With a directory an `ExampleStore`, otherwise a nest of arrays (num_examples, ...).

    Raises:
        UserError: If the elements are not as many, or differ in shape, or do not fit in memory and
            no directory is named; before anything is spent.
    """
    cardinality = int(dataset.cardinality())
    if cardinality == tf.data.INFINITE_CARDINALITY:
        raise UserError(
            "fit(x): this tf.data.Dataset never ends, and the plan is for "
            f"{num_examples} training examples. Leave repeat() out: the plan draws the epochs."
        )
    if cardinality not in (tf.data.UNKNOWN_CARDINALITY, num_examples):
        raise _another_number(num_examples, str(cardinality))
    examples = _counted(dataset, num_examples)
    if directory is None:
        return _in_memory(examples, num_examples)
    with StoreWriter(directory, "tf.data pipeline") as writer:
        for example in examples:
            writer.add(example)
        return writer.store()


def stored_examples(directory: str | Path) -> ExampleStore:
    """Opens what `private_dataset(..., directory=...)` stored, for `fit` or `private_dataset`.

    Raises:
        UserError: There is nothing stored, or it is damaged.
    """
    return open_store(directory)


def refuse_batches_as_examples(model: keras.Model, inputs: Any) -> None:
    """Refuses examples with an axis more than the model takes: each would be a batch.

    Args:
        model: The model that trains.
        inputs: What it is to be called with, a nest of (k, ...).

    Raises:
        UserError: If so; clipping would then bound a batch, and epsilon hide one, as one example.
    """
    expected = list(getattr(model, "inputs", None) or [])
    if isinstance(inputs, dict):
        found = [inputs.get(tensor.name) for tensor in expected]
    else:
        found = keras.tree.flatten(inputs)
    for tensor, array in zip(expected, found, strict=False):
        if array is None:  # goes by another name than its input's
            continue
        # Keras drops a last axis of one by itself.
        if len(array.shape) > len(tensor.shape) and array.shape[-1] != 1:
            raise UserError(
                f"training examples: each input has shape {tuple(array.shape[1:])}, and the model "
                f"takes {tuple(tensor.shape[1:])}: an example seems to be a batch, which would be "
                "clipped and hidden as if it were one person's. Give single examples."
            )


def _counted(dataset: tf.data.Dataset, num_examples: int) -> Iterator[Any]:
    """Yields the elements; that there is one too few or too many is found by counting."""
    count = 0
    # One more than planned is enough to know, should it never end.
    for example in dataset.take(num_examples + 1).as_numpy_iterator():
        count += 1
        if count > num_examples:
            raise _another_number(num_examples, f"more than {num_examples}")
        yield example
    if count < num_examples:
        raise _another_number(num_examples, str(count))


def _another_number(planned: int, found: str) -> UserError:
    return UserError(
        f"the plan is for {planned} training examples, and the tf.data.Dataset has {found}: the "
        "sampling probability, and with it epsilon, would be another. Make the plan for the number "
        "of single examples that train."
    )


def _in_memory(examples: Iterator[Any], num_examples: int) -> Any:
    template: Any = None
    columns: list[np.ndarray] = []
    needed_bytes = 0
    for position, example in enumerate(examples):
        found, arrays = taken_apart(example)
        if not position:
            template = found
            needed_bytes = num_examples * sum(a.nbytes for a in arrays if a.dtype != object)
            _require_little(needed_bytes, num_examples)
            columns = [np.empty((num_examples, *a.shape), a.dtype) for a in arrays]
        for column, array in zip(columns, arrays, strict=True):
            if array.shape != column.shape[1:]:
                raise UserError(
                    f"fit(x): example {position} of the tf.data.Dataset has shape {array.shape}, "
                    f"the first {column.shape[1:]}. Pad or resize all to one shape in the pipeline."
                )
            column[position, ...] = array  # of text the bytes, not an array around them
            if column.dtype == object:
                needed_bytes += sum(len(text) for text in array.flat)
        _require_little(needed_bytes, num_examples)
    return tf.nest.map_structure(lambda leaf: columns[leaf], template)


def _require_little(needed_bytes: int, num_examples: int) -> None:
    if needed_bytes > IN_MEMORY_BYTES:
        raise UserError(
            f"fit(x): the {num_examples} examples of the tf.data.Dataset take more than "
            f"{IN_MEMORY_BYTES / 2**30:g} GiB of memory. Give private_dataset(plan, x, "
            "directory=...) a directory to store them in, and its result to fit."
        )


def _kind(dataset: tf.data.Dataset) -> str:
    return type(dataset).__name__.lstrip("_")


def _inputs(dataset: tf.data.Dataset) -> list[tf.data.Dataset]:
    """What a dataset was made of; TensorFlow's private fields are the one way to see it."""
    # apply() overwrites what _inputs() answers, but not the fields.
    fields = (value for name, value in vars(dataset).items() if name != "_input_datasets")
    held = [
        part
        for value in fields
        for part in tf.nest.flatten(value)
        if isinstance(part, tf.data.Dataset)
    ]
    return held or list(dataset._inputs())


def _all_before(dataset: tf.data.Dataset) -> list[tf.data.Dataset]:
    """The dataset and all that it was made of, each once."""
    found: dict[int, tf.data.Dataset] = {}
    waiting = [dataset]
    while waiting:
        current = waiting.pop()
        if id(current) not in found:
            found[id(current)] = current
            waiting.extend(_inputs(current))
    return list(found.values())


def _refuse_batched_otherwise(dataset: tf.data.Dataset, mark: str) -> None:
    if any(hasattr(earlier, mark) for earlier in _all_before(dataset)):
        raise UserError(
            "fit(x): this private dataset was changed, so that its batches may be made not as the "
            "plan draws its batches. Give what private_dataset returned, and what is to be done "
            "with each example as its transform."
        )
    waiting = [dataset]
    while waiting:
        current = waiting.pop()
        if _kind(current) in _UNBATCHES:
            continue
        if _kind(current) in _BATCHES:
            raise UserError(
                f"fit(x): this tf.data.Dataset was batched by itself ({_kind(current)}), not as "
                "the plan draws its batches, so the plan's epsilon would not hold for it. Give "
                "single examples: leave batch() out, or end the pipeline with unbatch()."
            )
        waiting.extend(_inputs(current))


def _refuse_repeated(dataset: tf.data.Dataset) -> None:
    for earlier in _all_before(dataset):
        kind = _kind(earlier)
        repeats = kind in _REPEATS and tf.get_static_value(earlier._count) != 1
        if repeats or (kind in _MERGES and _shares_a_source(earlier)):
            raise UserError(
                f"fit(x): this tf.data.Dataset gives an example more than once ({kind}), and each "
                "time would count as another person: epsilon would hide none of them. Give every "
                "example once: the plan draws the epochs."
            )
        if kind in _JOINS or (kind in _PAIRS and _pairs_others(earlier)):
            raise UserError(
                f"fit(x): this tf.data.Dataset makes elements of several examples ({kind}), so "
                "that one person's data would be in several. Make each element of one example."
            )


def _shares_a_source(merged: tf.data.Dataset) -> bool:
    seen: set[int] = set()
    for branch in _inputs(merged):
        found = {id(earlier) for earlier in _all_before(branch)}
        if found & seen:
            return True
        seen |= found
    return False


def _pairs_others(zipped: tf.data.Dataset) -> bool:
    """Whether an element may join what was made of one example with another's (mixup)."""
    branches = [{id(d): _kind(d) for d in _all_before(branch)} for branch in _inputs(zipped)]
    if any(kind in _SHUFFLES for branch in branches for kind in branch.values()):
        return True  # in another order each
    shared = set.intersection(*map(set, branches))
    own = [kind for branch in branches for key, kind in branch.items() if key not in shared]
    return bool(shared) and any(kind in _MOVES for kind in own)
