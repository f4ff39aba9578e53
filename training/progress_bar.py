"""Keras's progress bar, without what would make its line too long to read."""

from __future__ import annotations

from typing import Any

import keras


class ProgressBar(keras.callbacks.ProgbarLogger):
    """Shows every log but those of single groups, whose names have a colon (`Player.named`)."""

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        super().on_epoch_end(epoch, {k: v for k, v in (logs or {}).items() if ":" not in k})
