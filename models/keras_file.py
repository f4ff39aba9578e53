"""A model as one `.keras` file: written all or nothing, read without running code from it.

The file is an ordinary Keras archive; low-rank changes are merged into the kernels. Keras keeps
which layers train, not which of their variables, so one more member, which Keras ignores, lists
the trainable variables by path.
"""

from __future__ import annotations

import importlib
import json
import os
import tempfile
import zipfile
from pathlib import Path

import keras

from configs.schema import UserError
from models.lora import merged_lora
from models.trainability import train_only

_TRAINABLE = "trainable_variables.json"
# Word in an archive's config.json -> module whose import registers that package's classes.
_REGISTERING_MODULES = {
    "keras_hub": "keras_hub",
    "sterling>FrozenBatchNormalization": "models.frozen_batch_normalization",
    "sterling>AdaptedTransformerEncoder": "models.adapters",
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
        with merged_lora(model):
            model.save(partial)
        with zipfile.ZipFile(partial, "a") as archive:
            archive.writestr(_TRAINABLE, json.dumps([v.path for v in model.trainable_variables]))
        os.replace(partial, target)


def load_keras(path: str | Path) -> keras.Model:
    """Reads a `.keras` file with `safe_mode=True`, importing what its layers come from.

    The variables that trained when it was written are trainable again; the factors of LoRA are
    not among them, having become part of kernels that are frozen.

    Raises:
        UserError: There is no such file, or it is not a Keras archive.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            config = archive.read("config.json").decode("utf-8")
            listed = json.loads(archive.read(_TRAINABLE)) if _is_ours(archive) else None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from error
    except (KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: expected a .keras file, as Keras saves it ({error}).") from error
    for word, module in _REGISTERING_MODULES.items():
        if word in config:
            importlib.import_module(module)
    model = keras.saving.load_model(path, compile=False, safe_mode=True)
    if listed is None:
        # A layer comes back frozen, but the layers inside it do not.
        listed = [v.path for layer in model.layers if layer.trainable for v in layer.weights]
    paths = set(listed)
    train_only(model, [v for v in model.weights if v.path in paths])
    return model


def _is_ours(archive: zipfile.ZipFile) -> bool:
    return _TRAINABLE in archive.namelist()
