"""Pretrained ResNet50 weights, read by layer name and assigned by layer name.

Reads what Keras writes: `.keras` archives and `.weights.h5` files of Keras 3, and the older HDF5
files of keras.applications. Only arrays are read; nothing in a file is executed.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np

from configs.assets import sha256_of
from configs.schema import SettingError, UserError

Tensors = Mapping[str, list[np.ndarray]]

_KEY = "model.resnet50.weights"


def read(weights: str) -> tuple[Tensors, dict[str, str]]:
    """Reads the arrays of each layer, and where they came from.

    Args:
        weights: `imagenet`, or a `.keras`, `.weights.h5` or `.h5` file.

    Returns:
        Layer name -> its arrays in Keras' order, and the origin for `BuiltModel.origin`.

    Raises:
        SettingError: There is no such file, or it is not one that Keras writes.
        UserError: The ImageNet weights cannot be downloaded.
    """
    if weights == "imagenet":
        return _imagenet(), {
            "source": "keras.applications.ResNet50(weights='imagenet')",
            "version": f"keras {keras.__version__}",
            "licence": "MIT (He et al. 2015)",
            "sha256": "",
        }
    path = Path(weights).expanduser()
    if not path.is_file():
        raise SettingError(_KEY, weights, "`imagenet` or an existing .keras or .weights.h5 file")
    origin = {"source": str(path), "version": "", "licence": "unknown", "sha256": sha256_of(path)}
    try:
        return _read_file(path), origin
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise SettingError(
            _KEY, weights, "a .keras or .weights.h5 file written by Keras"
        ) from error


def assign(
    model: keras.Model, tensors: Tensors, *, source: str, normalization: str, head: str
) -> None:
    """Assigns the arrays to the model's layers of the same names.

    The head is left as it is where its shape differs. Group normalization computes something
    else than batch normalization, so with it only the convolutions and the head are taken.

    Args:
        model: A ResNet50.
        tensors: Layer name -> its arrays.
        source: Named in errors.
        normalization: The model's, as in `ResNet50Settings`.
        head: Name of the model's last layer.

    Raises:
        SettingError: A layer is missing from the arrays, or has another shape.
    """
    for layer in model.layers:
        if not layer.weights:
            continue
        if normalization == "group" and isinstance(layer, keras.layers.GroupNormalization):
            continue
        found = [array.shape for array in tensors.get(layer.name, [])]
        expected = [tuple(variable.shape) for variable in layer.weights]
        if found == expected:
            layer.set_weights(tensors[layer.name])
        elif layer.name != head:
            raise SettingError(
                _KEY,
                source,
                f"weights of a ResNet50, with layer {layer.name} of shapes {expected} "
                f"(the file has {found or 'no such layer'})",
            )


def _imagenet() -> Tensors:
    try:
        reference = keras.applications.ResNet50(weights="imagenet")
    except Exception as error:  # Keras turns every failed download into a bare Exception.
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"{_KEY}: the ImageNet weights could not be downloaded: {reason}"
        ) from error
    return {layer.name: layer.get_weights() for layer in reference.layers if layer.weights}


def _read_file(path: Path) -> Tensors:
    if path.suffix == ".keras":
        with zipfile.ZipFile(path) as archive:
            content = io.BytesIO(archive.read("model.weights.h5"))
        with h5py.File(content, "r") as file:
            return _read_keras3(file)
    with h5py.File(path, "r") as file:
        return _read_keras3(file) if "layers" in file else _read_legacy(file)


def _read_keras3(file: h5py.File) -> Tensors:
    """Reads groups `layers/<class>_<n>/vars/<i>`, each layer's real name being an attribute."""
    tensors = {}
    for group in file["layers"].values():
        variables = group.get("vars", {})
        if len(variables):
            name = _text(variables.attrs.get("name", group.attrs.get("name", group.name)))
            tensors[name] = [np.asarray(variables[str(index)]) for index in range(len(variables))]
    return tensors


def _read_legacy(file: h5py.File) -> Tensors:
    """Reads groups named for their layers, whose attribute `weight_names` gives the order."""
    root = file.get("model_weights", file)
    tensors = {}
    for name in root.attrs["layer_names"]:
        group = root[_text(name)]
        arrays = [np.asarray(group[_text(weight)]) for weight in group.attrs["weight_names"]]
        if arrays:
            tensors[_text(name)] = arrays
    return tensors


def _text(value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)
