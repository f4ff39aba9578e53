"""An exported model needs TensorFlow alone and answers as the model in memory does."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import models
from configs.schema import (
    BertSettings,
    CnnSettings,
    MlpSettings,
    ModelSettings,
)

# Run by a Python that sees nothing of Sterling, Keras models or KerasHub.
SERVE = """
import sys
import numpy as np
import tensorflow as tf
directory, name, examples, answers = sys.argv[1:]
if name == "text":
    import tensorflow_text
assert "keras_hub" not in sys.modules and "models" not in sys.modules
raw = np.load(examples, allow_pickle=True)["raw"]
serve = tf.saved_model.load(directory).signatures["serving_default"]
outputs = serve(**{name: tf.constant(raw)})
single = serve(**{name: tf.constant(raw[:1])})
np.savez(
    answers,
    single=single["probabilities"].numpy(),
    **{key: np.asarray(value.numpy()) for key, value in outputs.items()},
)
"""


def serve_elsewhere(directory: Path, name: str, raw: np.ndarray, folder: Path) -> dict:
    """Answers of the SavedModel in a fresh process started outside the repository."""
    np.savez(folder / "examples.npz", raw=raw)
    arguments = [directory, name, folder / "examples.npz", folder / "answers.npz"]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run(
        [sys.executable, "-c", SERVE, *map(str, arguments)],
        check=True,
        cwd=folder,
        env={**environment, "TF_CPP_MIN_LOG_LEVEL": "2"},
    )
    return dict(np.load(folder / "answers.npz", allow_pickle=True))


def serve_here(directory: Path, name: str, raw: np.ndarray) -> dict:
    """Answers of the SavedModel, loaded beside the model it came from."""
    serve = tf.saved_model.load(str(directory)).signatures["serving_default"]
    answers = {key: value.numpy() for key, value in serve(**{name: tf.constant(raw)}).items()}
    single = serve(**{name: tf.constant(raw[:1])})["probabilities"].numpy()
    return {**answers, "single": single}


def encode(image: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()


def check_answers(answers: dict, built, raw: np.ndarray, labels: list[str]) -> None:
    logits = built.model(built.preprocess(tf.constant(raw)))
    expected = tf.nn.softmax(logits).numpy()
    np.testing.assert_allclose(answers["probabilities"], expected, atol=1e-5)
    np.testing.assert_allclose(answers["single"], expected[:1], atol=1e-5)
    np.testing.assert_array_equal(answers["label_index"], expected.argmax(axis=1))
    chosen = [labels[index].encode() for index in answers["label_index"]]
    assert answers["label"].tolist() == chosen
    assert answers["probabilities"].dtype == np.float32
    assert answers["label_index"].dtype == np.int32


def size_bytes(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())


@pytest.mark.slow
def test_embedded_bert_serves_raw_text_at_the_size_of_its_weights(texts, tmp_path):
    settings = ModelSettings(bert=BertSettings(sequence_length=24, dropout=0.1))
    built = models.build(settings, num_classes=2, modality="text", seed=0)
    directory = tmp_path / "export"
    vocabulary = "\n".join(built.preprocess.vocabulary)
    models.export_saved_model(
        built,
        directory,
        label_names=["no", "yes"],
        assets={"vocab.txt": vocabulary, "evaluation.json": json.dumps({"accuracy": 0.5})},
    )
    weights_bytes = 4 * built.model.count_params()
    assert size_bytes(directory) <= 1.1 * weights_bytes
    assert json.loads((directory / "assets" / "evaluation.json").read_text()) == {"accuracy": 0.5}
    answers = serve_elsewhere(directory, "text", texts, tmp_path)
    check_answers(answers, built, texts, ["no", "yes"])


def test_images_of_any_size_are_served_from_their_bytes(photographs, tmp_path):
    settings = ModelSettings(name="cnn", cnn=CnnSettings(image_size=16, dropout=0.2))
    built = models.build(settings, num_classes=3, modality="image", seed=0)
    labels = ["zero", "eins", "två"]
    models.export_saved_model(built, tmp_path / "export", label_names=labels, assets={})
    files = [encode(image) for image in photographs]
    files += [encode(photographs[0][:7, :5]), encode(photographs[1, :, :, 0])]
    raw = np.array(files, object)
    check_answers(serve_here(tmp_path / "export", "image_bytes", raw), built, raw, labels)


@pytest.fixture(scope="module")
def perceptron():
    settings = ModelSettings(name="mlp", mlp=MlpSettings(hidden_units=[4]))
    return models.build(settings, num_classes=2, modality="features", input_shape=(5,), seed=0)


def test_features_are_served_under_their_name(perceptron, tmp_path):
    models.export_saved_model(perceptron, tmp_path / "export", label_names=["a", "b"], assets={})
    raw = np.random.default_rng(0).normal(size=(9, 5)).astype(np.float32)
    answers = serve_here(tmp_path / "export", "features", raw)
    check_answers(answers, perceptron, raw, ["a", "b"])


@pytest.mark.slow
def test_saved_model_cli_shows_the_signature(perceptron, tmp_path):
    models.export_saved_model(perceptron, tmp_path / "export", label_names=["a", "b"], assets={})
    command = Path(sys.executable).with_name("saved_model_cli")
    arguments = ["show", "--dir", str(tmp_path / "export"), "--all"]
    shown = subprocess.run(
        [str(command), *arguments], check=True, capture_output=True, text=True
    ).stdout
    assert "signature_def['serving_default']" in shown
    for line in ("inputs['features']", "shape: (-1, 5)", "outputs['label_index']", "DT_STRING"):
        assert line in shown


def test_assets_may_be_text_bytes_or_files_and_survive_a_move(perceptron, tmp_path):
    source = tmp_path / "recipe.yaml"
    source.write_text("model: {name: mlp}\n")
    models.export_saved_model(
        perceptron,
        tmp_path / "export",
        label_names=["a", "b"],
        assets={"labels.txt": "a\nb\n", "privacy.bin": b"\x00\xff", "recipe.yaml": source},
    )
    (tmp_path / "export").rename(tmp_path / "elsewhere")
    source.unlink()
    assets = tmp_path / "elsewhere" / "assets"
    assert {file.name: file.read_bytes() for file in assets.iterdir()} == {
        "labels.txt": b"a\nb\n",
        "privacy.bin": b"\x00\xff",
        "recipe.yaml": b"model: {name: mlp}\n",
    }
    tf.saved_model.load(str(tmp_path / "elsewhere"))


def test_an_earlier_export_is_replaced_and_nothing_else_is_left(perceptron, tmp_path):
    for names in (["a", "b"], ["c", "d"]):
        models.export_saved_model(
            perceptron, tmp_path / "export", label_names=names, assets={names[0]: "x"}
        )
    assert [entry.name for entry in tmp_path.iterdir()] == ["export"]
    assert [file.name for file in (tmp_path / "export" / "assets").iterdir()] == ["c"]


def test_a_failed_export_leaves_the_earlier_one_untouched(perceptron, tmp_path):
    models.export_saved_model(
        perceptron, tmp_path / "export", label_names=["a", "b"], assets={"old": "x"}
    )
    missing = tmp_path / "missing.json"
    with pytest.raises(FileNotFoundError):
        models.export_saved_model(
            perceptron, tmp_path / "export", label_names=["a", "b"], assets={"new": missing}
        )
    assert [entry.name for entry in tmp_path.iterdir()] == ["export"]
    assert (tmp_path / "export" / "assets" / "old").is_file()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label_names": ["a"]}, "2 classes. Received 1"),
        ({"assets": {"../outside": "x"}}, "plain file name"),
    ],
)
def test_unfitting_names_are_refused(perceptron, tmp_path, changes, message):
    arguments = {"label_names": ["a", "b"], "assets": {}, **changes}
    with pytest.raises(ValueError, match=message):
        models.export_saved_model(perceptron, tmp_path / "export", **arguments)
    assert list(tmp_path.iterdir()) == []
