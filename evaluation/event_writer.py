"""One TensorBoard event file per log directory and process.

Several callbacks write about the same run. Were each to open its own event file in the same
directory, TensorBoard could stop reading the earlier file once a later one exists; so they share
one writer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import tensorflow as tf

_writers: WeakValueDictionary[Path, Any] = WeakValueDictionary()


def event_writer(log_dir: str | Path) -> tf.summary.SummaryWriter:
    """Returns the writer of `log_dir`, the same for everybody who still holds it."""
    path = Path(log_dir).resolve()
    writer = _writers.get(path)
    if writer is None:
        writer = tf.summary.create_file_writer(str(path))
        _writers[path] = writer
    return writer
