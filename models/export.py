"""A model as a SavedModel that takes raw examples and needs nothing of Sterling.

Preprocessing, network and label names are one graph. Served by TensorFlow alone (with
`tensorflow_text` imported where the input is text).
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from models.contracts import BuiltModel
from models.decide import GraphRule
from models.decision_rule import DecisionRule
from models.lora import lora_variables, merged_lora

Asset = str | bytes | Path

# Modality -> name of the served input. Its shape is one axis of any length, the batch; features
# add their width.
INPUT_NAMES = {"text": "text", "image": "image_bytes", "features": "features"}


def export_saved_model(
    built: BuiltModel,
    directory: str | Path,
    *,
    label_names: Sequence[str],
    assets: Mapping[str, Asset],
    rule: DecisionRule | None = None,
) -> None:
    """Writes the model as a SavedModel, all or nothing.

    The signature `serving_default` takes `text` (string (batch,), UTF-8), `image_bytes` (string
    (batch,), an image file each, of any size) or `features` (float32 (batch, d)), and returns
    `probabilities` float32 (batch, classes), `label` string (batch,) and `label_index` int32
    (batch,). The batch may have any size. Probabilities are those of the model in memory: to 1e-5
    in float32, and to the digits that mixed precision keeps (about 1e-3) where it was built so.
    Each weight is stored once, LoRA's as part of the kernels they change; random state and
    optimizer are left out.

    With a rule there is a second signature, `decide`. It takes the same input and, where the rule
    has an attribute, `group` (string (batch,), the name of each example's group), and returns
    what `models.decide.GraphRule` does. A group it does not know ends in an
    `InvalidArgumentError` that lists those it knows.

    Args:
        built: The model and its preprocessor.
        directory: Where to write it; an earlier export there is replaced.
        label_names: Label values in index order.
        assets: File name -> its text, its bytes, or the file to copy. They lie in the
            SavedModel's `assets` folder.
        rule: How scores become answers in the signature `decide`; none leaves it out.

    Raises:
        ValueError: The names are not as many as the model's classes, or an asset's name is not a
            plain file name.
    """
    classes = built.model.output.shape[-1]
    if len(label_names) != classes:
        raise ValueError(
            f"The model has {classes} classes. Received {len(label_names)} label_names."
        )
    target = Path(directory)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
        partial, sources = Path(folder) / "saved_model", Path(folder) / "assets"
        module = _Served(built, label_names, _write_assets(assets, sources), rule)
        signatures = {"serving_default": module.serve}
        if module.decide is not None:
            signatures["decide"] = module.decide
        with merged_lora(built.model):  # until the graph is traced and the weights are written
            tf.saved_model.save(module, str(partial), signatures=signatures)
        _replace_directory(partial, target, aside=Path(folder) / "replaced")


class _Served(tf.Module):
    """What a SavedModel is made of: its functions, the weights they read, and files.

    The Keras model itself is not an attribute, and `keras.export.ExportArchive` is not used, on
    purpose: an archive lists every weight as a Keras variable and again as the TensorFlow
    variable inside it, and TensorFlow stores both.
    """

    def __init__(
        self,
        built: BuiltModel,
        label_names: Sequence[str],
        files: Sequence[Path],
        rule: DecisionRule | None,
    ):
        super().__init__(name="sterling")
        merged = {id(variable) for variable in lora_variables(built.model)}
        self.weights = [v.value for v in built.model.weights if id(v) not in merged]
        self.files = [tf.saved_model.Asset(str(file)) for file in files]
        names = tf.constant(list(label_names))

        def serve(raw: tf.Tensor) -> dict[str, tf.Tensor]:
            logits = built.model(built.preprocess(raw), training=False)
            index = tf.argmax(logits, axis=-1, output_type=tf.int32)
            return {
                "probabilities": tf.nn.softmax(logits),
                "label": tf.gather(names, index),
                "label_index": index,
            }

        spec = _input_spec(built)
        self.serve = tf.function(serve, input_signature=[spec], autograph=False)
        self.decide = None if rule is None else _deciding(serve, spec, rule, label_names)


def _deciding(
    serve: Callable[[tf.Tensor], dict[str, tf.Tensor]],
    spec: tf.TensorSpec,
    rule: DecisionRule,
    label_names: Sequence[str],
) -> Any:
    """The function of the signature `decide`."""
    decided = GraphRule(rule, list(label_names))

    def decide(raw: tf.Tensor, group: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        return decided(raw, serve(raw)["probabilities"], group)

    specs = [spec]
    if rule.attribute is not None:
        specs.append(tf.TensorSpec((None,), tf.string, "group"))
    return tf.function(decide, input_signature=specs, autograph=False)


def _input_spec(built: BuiltModel) -> tf.TensorSpec:
    modality = built.preprocess.modality
    name = INPUT_NAMES[modality]
    if modality == "features":
        return tf.TensorSpec((None, *built.model.input["features"].shape[1:]), tf.float32, name)
    return tf.TensorSpec((None,), tf.string, name)


def _write_assets(assets: Mapping[str, Asset], folder: Path) -> list[Path]:
    folder.mkdir()
    files = []
    for name, content in assets.items():
        if name != Path(name).name or not name:
            raise ValueError(f"An asset needs a plain file name. Received: {name!r}")
        file = folder / name
        if isinstance(content, Path):
            shutil.copyfile(content, file)
        else:
            file.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
        files.append(file)
    return files


def _replace_directory(source: Path, target: Path, *, aside: Path) -> None:
    """Moves `source` to `target`; what was there goes to `aside` (all on one file system)."""
    if target.exists():
        os.replace(target, aside)
    os.replace(source, target)
