"""Which of Keras' callbacks would act on, or give away, a measurement of training examples."""

from __future__ import annotations

import re
from typing import Any

import keras

# {loss:.2f}, {accuracy} and the like in the name of a file; {epoch} and {val_loss} tell nothing.
_FIGURE_OF_TRAINING = re.compile(r"\{(?!epoch|val_|batch)\w+")


def measurement_acted_on(callback: Any) -> str | None:
    """The measurement of training examples that a callback says it watches; None if it says none.

    Validation takes no part in training, and epsilon itself tells nothing of an example.
    """
    stops_on_loss = isinstance(callback, keras.callbacks.TerminateOnNaN)
    monitored = getattr(callback, "monitor", None) or ("loss" if stops_on_loss else None)
    if not isinstance(monitored, str):  # something else by that name, of a user's own
        return None
    return None if monitored == "epsilon" or monitored.startswith("val_") else monitored


def names_files_by_training(filepath: Any) -> bool:
    """Whether a file's name is to be filled with a measurement of training examples."""
    return _FIGURE_OF_TRAINING.search(str(filepath)) is not None
