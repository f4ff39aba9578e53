"""How the memory of a run grows with the number of its examples, by `data.cache`.

    python -m benchmarks.data_memory
    python -m benchmarks.data_memory --sources csv --examples 1000 16000

Data of two sizes are made on disk, and for each size and each cache a process of its own opens the
session of a private recipe, draws Poisson batches through the feed that training uses, and goes
once through the validation split. Its highest resident memory (VmHWM) is reported. Models, and the
activations of frozen layers (`training.cache_frozen_gb: 0` here), take the same at every size.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

_STEPS = 40
_BATCH = 32
_TEXT_BYTES = 30_000
_PIXELS = 128


def _texts(examples: int) -> Any:
    import numpy as np

    random = np.random.default_rng(0)
    words = np.array([f"word{number}" for number in range(1000)])
    for number in range(examples):
        text = " ".join(words[random.integers(0, 1000, _TEXT_BYTES // 8)])
        yield {"text": text, "label": number % 2}


def _images(examples: int) -> Any:
    import numpy as np

    random = np.random.default_rng(0)
    for number in range(examples):
        yield {
            "image": random.integers(0, 256, (_PIXELS, _PIXELS, 3), np.uint8),
            "label": number % 2,
        }


def _csv(folder: Path, examples: int) -> dict[str, Any]:
    path = folder / "texts.csv"
    with path.open("w") as file:
        file.write("text,label\n")
        for row in _texts(examples):
            file.write(f"{row['text']},{row['label']}\n")
    return {"source": "csv", "table": {"train": str(path), "text": "text"}}


def _image_folder(folder: Path, examples: int) -> dict[str, Any]:
    from PIL import Image

    for label in "01":
        (folder / label).mkdir()
    for number, row in enumerate(_images(examples)):
        Image.fromarray(row["image"]).save(folder / str(row["label"]) / f"{number}.png")
    return {"source": "image_folder", "image_folder": {"train": str(folder)}}


def _tfds(folder: Path, rows: Any, feature: str, file_format: str) -> dict[str, Any]:
    import numpy as np
    import tensorflow_datasets as tfds

    features = {"text": tfds.features.Text(), "image": tfds.features.Image(shape=(None, None, 3))}
    directory = tfds.dataset_builders.store_as_tfds_dataset(
        name="measured",
        version="1.0.0",
        features=tfds.features.FeaturesDict({feature: features[feature], "label": np.int64}),
        split_datasets={"train": list(enumerate(rows))},
        config="plain",
        data_dir=folder,
        file_format=file_format,
        disable_shuffling=True,
    ).data_path
    chosen = {"directory": str(directory), "test": None, feature: feature}
    return {"source": "tfds", "tfds": chosen, "store": str(folder / "store")}


SOURCES: dict[str, Callable[[Path, int], dict[str, Any]]] = {
    "csv": _csv,
    "image_folder": _image_folder,
    "tfds_text": lambda folder, n: _tfds(folder, _texts(n), "text", "array_record"),
    "tfds_images_tfrecord": lambda folder, n: _tfds(folder, _images(n), "image", "tfrecord"),
}


def peak_bytes(settings: dict[str, Any], cache: str) -> int:
    """Highest resident memory of a process of its own that draws from these data."""
    arguments = ["--draw", json.dumps(settings | {"cache": cache})]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.data_memory", *arguments],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return int(done.stdout.splitlines()[-1])


def _draw(settings: dict[str, Any]) -> None:
    import tensorflow as tf

    import configs.schema as schema
    import data
    from configs.schema.data import ImageFolderSettings, TableSettings, TfdsSettings
    from training.batching import Batching
    from training.feeding import ReplicaFeed
    from training.session import open_session

    parts = {"table": TableSettings, "image_folder": ImageFolderSettings, "tfds": TfdsSettings}
    is_text = any("text" in settings.get(name, {}) for name in parts)
    sections = {name: make(**settings[name]) for name, make in parts.items() if name in settings}
    recipe = schema.Recipe(
        data=schema.DataSettings(**settings | sections),
        model=schema.ModelSettings(
            name="bert", bert=schema.BertSettings(trainable="head", sequence_length=32)
        )
        if is_text
        else schema.ModelSettings(name="mlp", mlp=schema.MlpSettings([4], image_size=32)),
        training=schema.TrainingSettings(steps=_STEPS, batch_size=_BATCH, cache_frozen_gb=0),
        privacy=schema.PrivacySettings(enabled=True, noise_multiplier=1.0),
    )
    session = open_session(recipe)
    assert session.plan is not None
    batching = Batching(session.plan.sampler(session.randomness), _BATCH)
    feed = ReplicaFeed(session.train, batching, tf.distribute.get_strategy())
    drawn = sum(int(batch["mask"].numpy().sum()) for batch in feed(0, _STEPS))
    in_order = data.batches_in_order(session.validation, _BATCH)
    seen = sum(int(batch["mask"].numpy().sum()) for batch in in_order)
    assert drawn > _STEPS
    assert seen == len(session.validation)
    status = Path("/proc/self/status").read_text(encoding="ascii")
    print(int(status.split("VmHWM:")[1].split()[0]) * 1024)


def main(argv: Sequence[str] | None = None) -> None:
    """Makes the data, measures, and prints one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sources", nargs="+", choices=SOURCES, default=list(SOURCES))
    parser.add_argument("--examples", nargs="+", type=int, default=[1000, 8000])
    parser.add_argument(
        "--caches", nargs="+", choices=["memory", "none"], default=["memory", "none"]
    )
    parser.add_argument("--draw", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.draw:
        _draw(json.loads(arguments.draw))
        return
    header = "".join(f"{examples:>12,}" for examples in arguments.examples)
    print(f"{'peak resident memory, MB':<34}{header}", flush=True)
    for source in arguments.sources:
        rows: dict[str, list[int]] = {cache: [] for cache in arguments.caches}
        for examples in arguments.examples:
            with tempfile.TemporaryDirectory() as folder:
                settings = SOURCES[source](Path(folder), examples)
                for cache, found in rows.items():
                    found.append(peak_bytes(settings, cache))
        for cache, found in rows.items():
            figures = "".join(f"{peak / 1e6:>12,.0f}" for peak in found)
            print(f"{source:<24}{cache:<10}{figures}", flush=True)


if __name__ == "__main__":
    main()
