"""A model as one `.keras` file: written all or nothing, read without running code from it."""

from __future__ import annotations

import importlib
import os
import tempfile
import zipfile
from pathlib import Path

import keras

from configs.schema import UserError

# Word in an archive's config.json -> module whose import registers that package's classes.
_REGISTERING_MODULES = {
    "keras_hub": "keras_hub",
    "sterling>": "models.frozen_batch_normalization",
}


def save_keras(model: keras.Model, path: str | Path) -> None:
    """Writes architecture and weights; an interrupted write leaves no file at `path`.

    Args:
        model: Any model built here.
        path: File ending in `.keras`; replaced if it exists.
    """
    target = Path(path)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
        partial = Path(folder) / "model.keras"
        model.save(partial)
        os.replace(partial, target)


def load_keras(path: str | Path) -> keras.Model:
    """Reads a `.keras` file with `safe_mode=True`, importing what its layers come from.

    Raises:
        UserError: There is no such file, or it is not a Keras archive.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            config = archive.read("config.json").decode("utf-8")
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: not a readable .keras file: {error}") from error
    for word, module in _REGISTERING_MODULES.items():
        if word in config:
            importlib.import_module(module)
    model = keras.saving.load_model(path, compile=False, safe_mode=True)
    for layer in model.layers:
        if not layer.trainable:
            # It comes back frozen, but the layers inside it do not. TensorFlow ignores an
            # attribute set to the value it has, hence the detour.
            layer.trainable = True
            layer.trainable = False
    return model
