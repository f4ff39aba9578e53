"""One TensorBoard event file per log directory and process.

Several callbacks write about the same run. Were each to open its own event file in the same
directory, TensorBoard could stop reading the earlier file once a later one exists; so they share
one writer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import tensorflow as tf

_PICTURED_EPOCHS = 10
_writers: WeakValueDictionary[Path, Any] = WeakValueDictionary()


def event_writer(log_dir: str | Path) -> tf.summary.SummaryWriter:
    """Returns the writer of `log_dir`, the same for everybody who still holds it."""
    path = Path(log_dir).resolve()
    writer = _writers.get(path)
    if writer is None:
        writer = tf.summary.create_file_writer(str(path))
        _writers[path] = writer
    return writer


def picture_is_due(epoch: int, params: Mapping[str, Any] | None) -> bool:
    """Whether pictures are drawn at the end of an epoch: of about ten, the first and the last.

    Args:
        epoch: Counted from 0.
        params: A Keras callback's.
    """
    epochs = (params or {}).get("epochs") or 1
    every = math.ceil(epochs / _PICTURED_EPOCHS)
    return epoch == 0 or (epoch + 1) % every == 0 or epoch + 1 >= epochs
