"""A tf.data service prepares the batches that the trainer would, or the step does not happen."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import data
from configs.schema import (
    DataSettings,
    ImageFolderSettings,
    ModelSettings,
    SettingError,
    UserError,
)
from data.pipeline import PreparedSplit, batches_of
from data.service import in_order, require_service, served_batches
from models.image_preprocessing import ImagePreprocessor
from tests.data.paired_images import settings_of, write_images
from tests.training.conftest import (
    BASE,
    PRIVATE,
    assert_identical,
    process_as_it_was,  # noqa: F401
    weights_of,
)
from training.privacy.ledger import Ledger
from training.run_directory import RunDirectory
from training.session import open_session

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.xdist_group("data service")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Photographs' substitutes: sixty small images of noise, of two classes and several sizes."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for i in range(60):
        place = root / ("dark" if i % 2 else "light")
        place.mkdir(exist_ok=True)
        pixels = rng.integers(0, 256, (9 + i % 4, 11, 3), dtype=np.uint8) // (1 + i % 2)
        tf.io.write_file(str(place / f"{i}.png"), tf.io.encode_png(pixels))
    return root


@pytest.fixture(scope="module")
def service() -> Iterator[str]:
    """A dispatcher and a worker in a process of their own, and a second worker here."""
    process = subprocess.Popen(
        [sys.executable, "-m", "scripts.cli", "data-service"],
        cwd=ROOT,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        address = re.search(r"grpc://localhost:\d+", line)
        assert address, line
        experimental = tf.data.experimental.service
        second = experimental.WorkerServer(
            experimental.WorkerConfig(dispatcher_address=address[0].removeprefix("grpc://"))
        )
        yield address[0]
        del second
    finally:
        process.terminate()
        assert process.wait(1800) == 143


def settings(folder: Path, **changes: Any) -> DataSettings:
    images = ImageFolderSettings(train=str(folder))
    return DataSettings(source="image_folder", image_folder=images, **changes)


@pytest.fixture(scope="module")
def prepared(folder) -> PreparedSplit:
    return data.prepare(data.load(settings(folder)).train, ImagePreprocessor(8, "symmetric"))


def batch(number: int, ids: list[int]) -> dict[str, Any]:
    return {"number": number, "ids": np.array(ids), "inputs": {"image": np.array(ids) * 10}}


DRAWN = [np.array([4, 2]), np.array([0, -1]), np.array([1, 4])]


def test_counterparts_come_from_the_service_like_any_image(service, tmp_path):
    root = write_images(tmp_path / "images", 20)
    dataset = data.load(settings_of(root))
    require_service(service, dataset.train)
    pairs = data.Counterparts.read("pairs", str(root / "pairs.csv"), dataset)
    split, table = pairs.applied_to(dataset.train)
    versions = data.prepare(split, ImagePreprocessor(8, "symmetric"))
    rows = [table[:5, 1], table[5:10, 0]]
    found = list(served_batches(versions, lambda: iter(rows), 5, service))
    expected = list(batches_of(versions, lambda: iter(rows), 5))
    for one, other in zip(found, expected, strict=True):
        assert_identical([one["inputs"]["image"].numpy()], [other["inputs"]["image"].numpy()])
        assert one["labels"].numpy().tolist() == other["labels"].numpy().tolist()


def test_batches_that_arrive_in_any_order_leave_in_the_order_drawn():
    served = [batch(2, [1, 4]), batch(0, [4, 2]), batch(1, [0, -1])]
    found = [list(inputs["image"]) for inputs in in_order(iter(served), DRAWN)]
    assert found == [[40, 20], [0, -10], [10, 40]]


@pytest.mark.parametrize(
    ("served", "message"),
    [
        ([batch(0, [4, 2]), batch(2, [1, 4])], "1 batches never came"),
        ([batch(0, [4, 2]), batch(0, [4, 2])], "batch 0 came twice"),
        ([batch(2, [1, 4]), batch(2, [1, 4])], "batch 2 came twice"),
        ([batch(3, [4, 2])], "was not asked for"),
        ([batch(0, [2, 4])], "does not hold the examples that were drawn"),
    ],
)
def test_batch_that_is_not_the_one_drawn_is_an_error_before_its_step(served, message):
    with pytest.raises(UserError, match=message):
        list(in_order(iter(served), DRAWN))


def test_served_batches_are_those_of_the_trainer(prepared, service):
    rng = np.random.default_rng(3)
    indices = [rng.integers(-1, len(prepared), 8) for _ in range(50)]
    local = batches_of(prepared, lambda: iter(indices), 8)
    served = served_batches(prepared, lambda: iter(indices), 8, service)
    assert served.element_spec == local.element_spec
    count = 0
    for one, other in zip(local.as_numpy_iterator(), served.as_numpy_iterator(), strict=True):
        tf.nest.map_structure(np.testing.assert_array_equal, one, other)
        count += 1
    assert count == 50


def trained(recipe: Any, root: Path) -> list[np.ndarray]:
    session, run = open_session(recipe), RunDirectory.at(root)
    run.root.mkdir(parents=True)
    loop = session.loop(run, [], Ledger(run.ledger, session.plan), verbose=0)
    loop.run()
    return weights_of(loop.model)


def test_run_ends_with_the_same_weights_with_and_without_a_service(folder, service, tmp_path):
    recipe = replace(
        BASE,
        data=settings(folder),
        model=ModelSettings(name="mlp", mlp=BASE.model.mlp),
        privacy=PRIVATE,
        training=replace(
            BASE.training, steps=6, batch_size=24, physical_batch_size=8, cache_frozen_gb=0.0
        ),
    )
    served = replace(recipe, data=settings(folder, service=service))
    one, other = trained(recipe, tmp_path / "here"), trained(served, tmp_path / "served")
    assert_identical(other, one)


def test_wrong_address_is_one_clear_line(folder):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"grpc://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(SettingError, match=r"data\.service: expected .*data-service.*refused"):
            require_service(address, data.load(settings(folder)).train)


def test_dispatcher_without_a_worker_is_not_waited_for(folder):
    experimental = tf.data.experimental.service
    lonely = experimental.DispatchServer(experimental.DispatcherConfig(port=0))
    with pytest.raises(SettingError, match=r"data\.service: expected a dispatcher with workers"):
        require_service(lonely.target, data.load(settings(folder)).train)


def test_examples_that_are_no_files_are_refused():
    digits = data.load(DataSettings(source="digits", limit=20)).train
    with pytest.raises(SettingError, match=r"data\.service: expected image files .*digits"):
        require_service("grpc://localhost:1", digits)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"service": "localhost:5000"}, r"data\.service: expected grpc://HOST:PORT"),
        ({"service": "grpc://a:1", "source": "census"}, r"data\.service: expected .*image_folder"),
    ],
)
def test_service_that_has_nothing_to_do_is_refused(folder, changes, message):
    with pytest.raises(SettingError, match=message):
        replace(settings(folder), **changes)
