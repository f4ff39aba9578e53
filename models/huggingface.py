"""A fine-tuned BERT back in Hugging Face layout, for `transformers` and for KerasHub.

Writes `config.json`, `model.safetensors` and tokenizer files. The encoder has the parameter names
and shapes of `transformers.BertModel`. The head goes

* where it is linear on the pooler, into `model.safetensors` as `classifier.weight` and
  `classifier.bias`: the folder is a `BertForSequenceClassification`, the same function;
* otherwise (mean or [CLS] pooling, or a hidden layer), which no class of `transformers` computes,
  into `classification_head.safetensors`: `classifier.weight`, `classifier.bias` and, with a
  hidden layer, `hidden.weight`, `hidden.bias`; its metadata says `pooling` and `activation`. The
  folder is then a `BertModel`, with the pretrained pooler unchanged.

Low-rank changes are merged into the kernels, so a BERT tuned by LoRA is an ordinary BERT. One with
adapters is not, and is refused.

KerasHub computes GELU by its tanh approximation whatever a checkpoint says, so the model was
trained with that, and `config.json` says so (`hidden_act: gelu_new`).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from configs.schema import UserError
from models import bert_parameters
from models.bert import BuiltBert
from models.bert_checkpoint import transformers_tokenizer
from models.contracts import BuiltModel
from models.heads import LOGITS
from models.lora import merged_lora

HEAD_FILE = "classification_head.safetensors"


def save_huggingface(built: BuiltModel, directory: str | Path, label_names: Sequence[str]) -> None:
    """Writes a BERT classifier as a Hugging Face directory.

    Args:
        built: A model that `models.build` made from `bert` settings.
        directory: Where to write; files of the same names are replaced, one by one and each as a
            whole.
        label_names: Label values in index order.

    Raises:
        TypeError: The model is not such a BERT.
        UserError: It has adapters, which no class of `transformers` computes.
    """
    if not isinstance(built, BuiltBert):
        raise TypeError(f"Only BERT has a Hugging Face layout here. Received: {type(built)}")
    if built.settings.trainable == "adapters":
        raise UserError(
            "A BERT with adapters (model.bert.trainable: adapters) has no Hugging Face layout. "
            "Export it as a SavedModel, or train it with lora or bitfit."
        )
    from safetensors.numpy import save

    fits_transformers = built.settings.pooling == "pooler" and not built.settings.hidden_units
    with merged_lora(built.model):
        encoder = _encoder_tensors(built)
    head = _head_tensors(built)
    target = Path(directory)
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
        partial = Path(folder)
        if fits_transformers:
            tensors = {f"bert.{name}": tensor for name, tensor in encoder.items()} | head
            (partial / "model.safetensors").write_bytes(save(tensors, {"format": "pt"}))
        else:
            (partial / "model.safetensors").write_bytes(save(encoder, {"format": "pt"}))
            (partial / HEAD_FILE).write_bytes(save(head, _head_description(built)))
        _write_config(built, partial, label_names, fits_transformers)
        _write_tokenizer(built, partial)
        (target / HEAD_FILE).unlink(missing_ok=True)
        for file in partial.iterdir():
            os.replace(file, target / file.name)


def _encoder_tensors(built: BuiltBert) -> dict[str, np.ndarray]:
    """Returns the parameters of `transformers.BertModel` by name."""
    trained = {
        parameter.name: parameter.to_torch()
        for parameter in bert_parameters.encoder_parameters(built.model)
    }
    return {**built.checkpoint.pooler, **trained}


def _head_tensors(built: BuiltBert) -> dict[str, np.ndarray]:
    layers = {"classifier": LOGITS}
    if built.settings.hidden_units:
        layers["hidden"] = "head_hidden"
    return {
        parameter.name: parameter.to_torch()
        for name, layer in layers.items()
        for parameter in bert_parameters.dense(name, built.model.get_layer(layer))
    }


def _head_description(built: BuiltBert) -> dict[str, str]:
    settings = built.settings
    return {
        "pooling": settings.pooling,
        "activation": settings.hidden_activation if settings.hidden_units else "",
        "sequence_length": str(settings.sequence_length),
    }


def _write_config(
    built: BuiltBert, folder: Path, label_names: Sequence[str], fits_transformers: bool
) -> None:
    import transformers

    inherited = {
        key: value
        for key, value in built.checkpoint.config.items()
        if not key.startswith(("_", "transformers"))
    }
    changed = {
        "architectures": ["BertForSequenceClassification" if fits_transformers else "BertModel"],
        "hidden_act": "gelu_new",
        "id2label": dict(enumerate(label_names)),
        "label2id": {name: index for index, name in enumerate(label_names)},
    }
    transformers.BertConfig.from_dict({**inherited, **changed}).save_pretrained(folder)


def _write_tokenizer(built: BuiltBert, folder: Path) -> None:
    # `transformers` writes tokenizer.json alone; KerasHub wants vocab.txt.
    vocabulary = "".join(f"{piece}\n" for piece in built.checkpoint.vocabulary)
    (folder / "vocab.txt").write_text(vocabulary, "utf-8")
    tokenizer = transformers_tokenizer(built.checkpoint, built.settings.sequence_length)
    tokenizer.save_pretrained(folder)
