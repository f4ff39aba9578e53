"""Small real inputs for the models' tests: a random BERT in Hugging Face layout, and examples."""

import json
from pathlib import Path

import numpy as np
import pytest

HIDDEN, BLOCKS, INTERMEDIATE, POSITIONS = 32, 3, 64, 40
WORDS = ["the", "a", "cat", "dog", "sat", "on", "mat", "under", "un", "ran", "naive", "café"]
SIGNS = [",", ".", "!", "'", "中", "文"]
PIECES = ["##able", "##s", "##ed", "##ing", "##liev", "##e", "##be", "##n"]
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *SIGNS, "cafe", "zoe", *PIECES]

CONFIG = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "vocab_size": len(VOCABULARY),
    "hidden_size": HIDDEN,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": 4,
    "intermediate_size": INTERMEDIATE,
    "max_position_embeddings": POSITIONS,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "pad_token_id": 0,
}


def bert_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of `transformers.BertModel`'s parameters, in PyTorch's layout."""
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (len(VOCABULARY), HIDDEN),
        "embeddings.position_embeddings.weight": (POSITIONS, HIDDEN),
        "embeddings.token_type_embeddings.weight": (2, HIDDEN),
        "embeddings.LayerNorm.weight": (HIDDEN,),
        "embeddings.LayerNorm.bias": (HIDDEN,),
        "pooler.dense.weight": (HIDDEN, HIDDEN),
        "pooler.dense.bias": (HIDDEN,),
    }
    dense = {
        "attention.self.query": (HIDDEN, HIDDEN),
        "attention.self.key": (HIDDEN, HIDDEN),
        "attention.self.value": (HIDDEN, HIDDEN),
        "attention.output.dense": (HIDDEN, HIDDEN),
        "intermediate.dense": (INTERMEDIATE, HIDDEN),
        "output.dense": (HIDDEN, INTERMEDIATE),
    }
    for block in range(BLOCKS):
        for name, shape in dense.items():
            shapes[f"encoder.layer.{block}.{name}.weight"] = shape
            shapes[f"encoder.layer.{block}.{name}.bias"] = shape[:1]
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes[f"encoder.layer.{block}.{name}.weight"] = (HIDDEN,)
            shapes[f"encoder.layer.{block}.{name}.bias"] = (HIDDEN,)
    return shapes


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory) -> Path:
    """A Hugging Face directory of a three-block BERT with random weights."""
    from safetensors.numpy import save_file

    rng = np.random.default_rng(0)
    tensors = {
        name: rng.normal(1.0 if name.endswith("LayerNorm.weight") else 0.0, 0.2, shape)
        for name, shape in bert_shapes().items()
    }
    directory = tmp_path_factory.mktemp("tiny_bert")
    save_file(
        {name: tensor.astype(np.float32) for name, tensor in tensors.items()},
        directory / "model.safetensors",
        {"format": "pt"},
    )
    (directory / "config.json").write_text(json.dumps(CONFIG))
    (directory / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", "utf-8")
    (directory / "tokenizer_config.json").write_text(
        json.dumps({"do_lower_case": True, "tokenizer_class": "BertTokenizer"})
    )
    return directory


def kerashub_backbone(directory: Path):
    """KerasHub's own reading of a Hugging Face directory, to compare with."""
    import keras_hub

    if tuple(map(int, keras_hub.__version__.split(".")[:2])) < (0, 26):
        pytest.skip("This KerasHub reads only parameters that start with `bert.`")
    return keras_hub.models.BertBackbone.from_preset(str(directory), dropout=0.0)


TEXTS = [
    "The cat sat on the mat.",
    "Unbelievable, Zoë ran under a CAFÉ!",
    "the cats' 中文 dogs",
    "",
    "the the the the the the the the the the the the the the the the the the",
]


@pytest.fixture(scope="session")
def texts() -> np.ndarray:
    return np.array([text.encode("utf-8") for text in TEXTS], object)


@pytest.fixture(scope="session")
def photographs() -> np.ndarray:
    """Six random uint8 images, (6, 20, 24, 3)."""
    return np.random.default_rng(1).integers(0, 256, (6, 20, 24, 3)).astype(np.uint8)
