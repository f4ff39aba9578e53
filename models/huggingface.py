"""A fine-tuned BERT back in Hugging Face layout, for `transformers` and for KerasHub.

Writes `config.json`, `model.safetensors` and tokenizer files. The encoder has the parameter names
and shapes of `transformers.BertModel`. The head goes

* where it is linear on the pooler, into `model.safetensors` as `classifier.weight` and
  `classifier.bias`: the folder is a `BertForSequenceClassification`, the same function;
* otherwise (mean or [CLS] pooling, or a hidden layer), which no class of `transformers` computes,
  into `classification_head.safetensors`: `classifier.weight`, `classifier.bias` and, with a
  hidden layer, `hidden.weight`, `hidden.bias`; its metadata says `pooling` and `activation`. The
  folder is then a `BertModel`, with the pretrained pooler unchanged.

KerasHub computes GELU by its tanh approximation whatever a checkpoint says, so the model was
trained with that, and `config.json` says so (`hidden_act: gelu_new`).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from models.bert import BuiltBert
from models.bert_checkpoint import transformers_tokenizer
from models.contracts import BuiltModel
from models.heads import LOGITS

HEAD_FILE = "classification_head.safetensors"
# Hugging Face name below `encoder.layer.<i>.` -> attributes of KerasHub's TransformerEncoder.
_DENSE_OF_BLOCK = {
    "attention.self.query": ("_self_attention_layer", "query_dense"),
    "attention.self.key": ("_self_attention_layer", "key_dense"),
    "attention.self.value": ("_self_attention_layer", "value_dense"),
    "attention.output.dense": ("_self_attention_layer", "output_dense"),
    "intermediate.dense": ("_feedforward_intermediate_dense",),
    "output.dense": ("_feedforward_output_dense",),
}
_NORM_OF_BLOCK = {
    "attention.output.LayerNorm": "_self_attention_layer_norm",
    "output.LayerNorm": "_feedforward_layer_norm",
}


def save_huggingface(built: BuiltModel, directory: str | Path, label_names: Sequence[str]) -> None:
    """Writes a BERT classifier as a Hugging Face directory.

    Args:
        built: A model that `models.build` made from `bert` settings.
        directory: Where to write; files of the same names are replaced, one by one and each as a
            whole.
        label_names: Label values in index order.

    Raises:
        TypeError: The model is not such a BERT.
    """
    if not isinstance(built, BuiltBert):
        raise TypeError(f"Only BERT has a Hugging Face layout here. Received: {type(built)}")
    from safetensors.numpy import save

    fits_transformers = built.settings.pooling == "pooler" and not built.settings.hidden_units
    encoder = dict(_encoder_tensors(built))
    head = dict(_head_tensors(built))
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


def _encoder_tensors(built: BuiltBert) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the parameters of `transformers.BertModel` by name."""
    layer = built.model.get_layer
    yield "embeddings.word_embeddings.weight", _array(layer("token_embedding").embeddings)
    positions = layer("position_embedding").position_embeddings
    yield "embeddings.position_embeddings.weight", _array(positions)
    yield "embeddings.token_type_embeddings.weight", _array(layer("segment_embedding").embeddings)
    yield from _normalization("embeddings.LayerNorm", layer("embeddings_layer_norm"))
    for index in range(int(built.checkpoint.config["num_hidden_layers"])):
        block = layer(f"transformer_layer_{index}")
        prefix = f"encoder.layer.{index}."
        for name, attributes in _DENSE_OF_BLOCK.items():
            dense = block
            for attribute in attributes:
                dense = getattr(dense, attribute)
            yield from _dense(prefix + name, dense)
        for name, attribute in _NORM_OF_BLOCK.items():
            yield from _normalization(prefix + name, getattr(block, attribute))
    if built.settings.pooling == "pooler":
        yield from _dense("pooler.dense", layer("pooled_dense"))
    else:
        kernel, bias = built.checkpoint.pooler
        yield "pooler.dense.weight", np.ascontiguousarray(kernel.T)
        yield "pooler.dense.bias", bias


def _head_tensors(built: BuiltBert) -> Iterator[tuple[str, np.ndarray]]:
    yield from _dense("classifier", built.model.get_layer(LOGITS))
    if built.settings.hidden_units:
        yield from _dense("hidden", built.model.get_layer("head_hidden"))


def _head_description(built: BuiltBert) -> dict[str, str]:
    settings = built.settings
    return {
        "pooling": settings.pooling,
        "activation": settings.hidden_activation if settings.hidden_units else "",
        "sequence_length": str(settings.sequence_length),
    }


def _array(variable: Any) -> np.ndarray:
    return np.ascontiguousarray(variable.numpy(), np.float32)


def _dense(name: str, layer: Any) -> Iterator[tuple[str, np.ndarray]]:
    """Yields a (possibly per-head) dense layer as PyTorch keeps it: output axis first."""
    bias = _array(layer.bias).reshape(-1)
    kernel = _array(layer.kernel).reshape(-1, bias.size)
    yield f"{name}.weight", np.ascontiguousarray(kernel.T)
    yield f"{name}.bias", bias


def _normalization(name: str, layer: Any) -> Iterator[tuple[str, np.ndarray]]:
    yield f"{name}.weight", _array(layer.gamma)
    yield f"{name}.bias", _array(layer.beta)


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
