"""The frozen part of a model, computed once for each example, when it is first drawn.

Exact: the frozen part has no randomness and no trainable weight, so its activations never change.
A run's first step therefore waits for the examples of one batch, not for one pass over all.
Activations are held in memory, within `training.cache_frozen_gb` and whatever `data.cache` says:
that is the one thing that may grow with the number of examples, and the log says how large it is.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from data.contracts import PADDING
from data.pipeline import PreparedSplit, batches_of

# Rows that pass together. Few enough that a draw fills its blocks, enough to keep cores busy.
_BLOCK = 32


def fits_in_memory(prefix: keras.Model, examples: int, budget_bytes: float) -> bool:
    """Whether the activations of `examples` examples take at most `budget_bytes`; logs which."""
    per_example = sum(
        int(np.prod(tensor.shape[1:])) * tf.as_dtype(tensor.dtype).size
        for tensor in tf.nest.flatten(prefix.output)
    )
    needed = per_example * examples
    fits = needed <= budget_bytes
    logging.info(
        "The frozen layers run once for each of %d examples, when it is first drawn; their "
        "activations take %.3g GB of memory (training.cache_frozen_gb: %g)."
        if fits
        else "The frozen layers run at every step: kept for %d examples, their activations would "
        "take %.3g GB of memory (training.cache_frozen_gb: %g).",
        examples,
        needed / 1e9,
        budget_bytes / 1e9,
    )
    return fits


def through_prefix(prepared: PreparedSplit, prefix: keras.Model) -> PreparedSplit:
    """The same split with `prefix`'s activations as its inputs, held in memory once computed."""
    if not len(prepared):
        empty = {name: _room(0, tensor) for name, tensor in prefix.output.items()}
        return PreparedSplit(prepared.split, prepared.preprocess, empty)
    features = FrozenFeatures(prepared, prefix)
    columns = {name: Column(features, name) for name in prefix.output}
    return PreparedSplit(prepared.split, prepared.preprocess, columns)


def give_up(prepared: PreparedSplit) -> None:
    """Makes whoever waits for features of `prepared` fail at once, because a run is to stop."""
    for column in (prepared.inputs or {}).values():
        if isinstance(column, Column):
            column.features.given_up.set()


def count_computed(prepared: PreparedSplit) -> int:
    """Examples of `prepared` whose frozen features are there; 0 where it has none."""
    columns = [c for c in (prepared.inputs or {}).values() if isinstance(c, Column)]
    return columns[0].features.computed if columns else 0


class FrozenFeatures:
    """A split's activations behind a frozen prefix, each computed when it is first asked for.

    Guarantees:
        An example's features do not depend on what is asked for with it, before it or after it.
        All blocks have one shape, rows do not mix, and an example's row in its block is fixed by
        its position: it meets the same kernels at the same place in every run.

    Rows that an odd number of examples leaves free are filled with others that are still missing,
    so that nothing is computed twice, and all of a split takes no more blocks than one pass.

    Args:
        prepared: The split; at least one example.
        prefix: From `models.split_frozen_prefix`.

    Attributes:
        computed: Examples whose features are there.
        given_up: Once set, asking for features that are not there raises `RuntimeError`.
    """

    def __init__(self, prepared: PreparedSplit, prefix: keras.Model):
        self.given_up = threading.Event()
        self.computed = 0
        self._rows = {name: _room(len(prepared), out) for name, out in prefix.output.items()}
        self._there = np.zeros(len(prepared), bool)
        # Whoever reads ahead for training may meet whoever measures.
        self._lock = threading.Lock()
        self._planned: list[np.ndarray] = []
        self._blocks = batches_of(prepared, self._next_blocks, _BLOCK)
        # Traced here: what cannot be traced is refused before training, and in this thread.
        self._forward = tf.function(
            lambda inputs: prefix(inputs, training=False), autograph=False
        ).get_concrete_function(self._blocks.element_spec["inputs"])

    def take(self, name: str, positions: np.ndarray) -> np.ndarray:
        """Rows of one activation, (k, ...).

        Args:
            name: Of the prefix's output.
            positions: int64 (k,), each in [0, n).

        Raises:
            RuntimeError: If features are missing and were given up.
        """
        with self._lock:
            missing = np.unique(positions[~self._there[positions]])
            if len(missing):
                self._compute(missing)
        return self._rows[name][positions]

    def _compute(self, missing: np.ndarray) -> None:
        self._planned = blocks_with(missing, self._there)
        for batch in self._blocks:
            if self.given_up.is_set():
                raise RuntimeError("The frozen layers were given up: the run is to stop.")
            activations = self._forward(batch["inputs"])
            real = batch["mask"].numpy()
            ids = batch["ids"].numpy()[real]
            for name, rows in self._rows.items():
                rows[ids] = activations[name].numpy()[real]
            self._there[ids] = True
            self.computed += len(ids)

    def _next_blocks(self) -> Iterator[np.ndarray]:
        return iter(self._planned)


def blocks_with(missing: np.ndarray, there: np.ndarray, size: int = _BLOCK) -> list[np.ndarray]:
    """The fewest blocks that hold all of `missing`, each example in its own row.

    Args:
        missing: Distinct positions int64 (k,) that must be among them.
        there: Which positions need not be computed any more, bool (n,).
        size: Rows of a block.

    Returns:
        Index arrays int64 (size,); row r holds a position p with p % size == r, or -1.
    """
    count = int(np.bincount(missing % size).max())
    blocks = np.full((count, size), PADDING, np.int64)
    for row in range(size):
        wanted = missing[missing % size == row]
        free = row + size * np.flatnonzero(~there[row::size])
        others = np.setdiff1d(free, wanted)[: count - len(wanted)]
        filled = np.concatenate([wanted, others])
        blocks[: len(filled), row] = filled
    return list(blocks)


@dataclass(frozen=True)
class Column:
    """One activation of all examples, indexed like an array (n, ...) that is not all there yet."""

    features: FrozenFeatures
    name: str

    @property
    def shape(self) -> tuple[int, ...]:
        return self.features._rows[self.name].shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.features._rows[self.name].dtype

    def __getitem__(self, positions: np.ndarray) -> np.ndarray:
        return self.features.take(self.name, positions)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[np.arange(self.shape[0])].astype(dtype or self.dtype, copy=False)


def _room(examples: int, tensor: Any) -> np.ndarray:
    dtype = tf.as_dtype(tensor.dtype).as_numpy_dtype
    return np.empty((examples, *tensor.shape[1:]), dtype)
