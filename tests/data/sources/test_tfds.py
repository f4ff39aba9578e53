"""TFDS datasets, prepared here with TFDS itself in both of its usual file formats."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

import data
from configs.schema.data import DataSettings, TfdsSettings
from configs.schema.errors import SettingError, UserError
from data.sources import tfds_rows

KEEP_ALL = {"validation_fraction": 0.0}
FORMATS = ("array_record", "tfrecord")
COUNTS = {"train": 20, "test": 6}
FEATURES = tfds.features.FeaturesDict(
    {
        "text": tfds.features.Text(),
        "image": tfds.features.Image(shape=(None, None, 3)),
        "other_image": tfds.features.Image(shape=(2, 2, 1)),
        "pixels": tfds.features.Tensor(shape=(2, 2, 1), dtype=np.uint8),
        "label": tfds.features.ClassLabel(names=["zebra", "ape"]),
        "toxicity": np.float32,
        "rating": np.int64,
        "people": {
            "sex": tfds.features.ClassLabel(names=["woman", "man"]),
            "town": tfds.features.Text(),
            "young": np.bool_,
            "male": np.float32,
        },
        "tags": tfds.features.Sequence(np.int64),
    }
)


def _example(number, label=None):
    return {
        "text": f"text {number} äöü",
        "image": np.full((3 + number % 2, 4, 3), number, np.uint8),
        "other_image": np.zeros((2, 2, 1), np.uint8),
        "pixels": np.full((2, 2, 1), number, np.uint8),
        "label": number % 2 if label is None else label,
        "toxicity": number / 20,
        "rating": number % 3 + 9,
        "people": {
            "sex": number % 2,
            "town": "" if number == 0 else f"town {number % 3}",
            "young": number % 4 == 0,
            "male": float("nan") if number == 0 else number / 20,
        },
        "tags": [number],
    }


def _prepare(folder, file_format, examples):
    return tfds.dataset_builders.store_as_tfds_dataset(
        name="trial",
        version="1.2.0",
        features=FEATURES,
        split_datasets={
            split: [(number, example) for number, example in enumerate(examples[split])]
            for split in examples
        },
        config="plain",
        data_dir=folder,
        file_format=file_format,
        disable_shuffling=True,
    ).data_path


@pytest.fixture(scope="module", params=FORMATS)
def directory(request, tmp_path_factory):
    examples = {
        split: [_example(number) for number in range(count)] for split, count in COUNTS.items()
    }
    return _prepare(tmp_path_factory.mktemp(request.param), request.param, examples)


def _load(directory, on_error="raise", label_names=None, limit=None, **changes):
    chosen = TfdsSettings(directory=str(directory), **changes)
    return data.load(
        DataSettings(
            source="tfds",
            tfds=chosen,
            on_error=on_error,
            label_names=label_names,
            limit=limit,
            **KEEP_ALL,
        )
    )


def _group(dataset, name):
    return [dataset.info.groups[name][index] for index in dataset.train.groups[name]]


def test_text_labels_and_provenance_are_read_in_stored_order(directory):
    dataset = _load(directory, text="text")
    texts = dataset.train.read(np.arange(20)).raw
    assert [text.decode() for text in texts] == [f"text {number} äöü" for number in range(20)]
    assert dataset.info.label_names == ("zebra", "ape")
    assert list(dataset.train.labels) == [0, 1] * 10
    assert [len(split) for split in (dataset.train, dataset.validation, dataset.test)] == [20, 0, 6]
    assert dataset.info.name == "trial/plain/1.2.0"
    assert dataset.info.provenance.version == "1.2.0"


def test_images_keep_their_encoded_bytes_and_their_own_sizes(directory):
    split = _load(directory, image="image").train
    raw = split.read(np.array([7, 0, 7])).raw
    images = [tf.io.decode_image(encoded).numpy() for encoded in raw]
    for image, number in zip(images, (7, 0, 7), strict=True):
        np.testing.assert_array_equal(image, np.full((3 + number % 2, 4, 3), number))


def test_only_images_held_in_memory_are_announced(directory, caplog):
    with caplog.at_level("INFO", logger=tfds_rows.__name__):
        _load(directory, image="image")
    notices = [record for record in caplog.records if "in memory" in record.getMessage()]
    assert bool(notices) == (
        tfds.builder_from_directory(directory).info.file_format.value == "tfrecord"
    )


def test_images_pass_through_the_pipeline(directory):
    def decode(encoded):
        def one(image):
            decoded = tf.io.decode_image(image, channels=3, expand_animations=False)
            decoded.set_shape([None, None, 3])
            return tf.image.resize(tf.cast(decoded, tf.float32), [2, 2])

        return {"image": tf.map_fn(one, encoded, fn_output_signature=tf.TensorSpec([2, 2, 3]))}

    prepared = data.prepare(_load(directory, image="image").train, decode)
    (batch,) = data.batches_of(
        prepared, lambda: iter([np.array([3, 19, -1])]), 3
    ).as_numpy_iterator()
    np.testing.assert_array_equal(batch["inputs"]["image"][:2, 0, 0, 0], [3, 19])
    np.testing.assert_array_equal(batch["mask"], [True, True, False])


def test_uint8_tensors_of_fixed_shape_are_images_too(directory):
    raw = _load(directory, image="pixels").train.read(np.array([5, 1])).raw
    assert raw.shape == (2, 2, 2, 1)
    assert raw.dtype == np.uint8
    np.testing.assert_array_equal(raw[:, 0, 0, 0], [5, 1])


def test_groups_of_every_kind_get_readable_names(directory):
    names = ["people.sex", "people.town", "people.young", "people.male", "rating"]
    dataset = _load(directory, text="text", groups=names)
    assert dataset.info.groups == {
        "people.sex": ("woman", "man"),
        "people.town": ("town 0", "town 1", "town 2", "unknown"),
        "people.young": ("false", "true"),
        "people.male": ("< 0.5", ">= 0.5", "unknown"),
        "rating": ("9", "10", "11"),
    }
    assert _group(dataset, "people.sex") == ["woman", "man"] * 10
    assert _group(dataset, "people.town")[:3] == ["unknown", "town 1", "town 2"]
    assert _group(dataset, "people.young")[:5] == ["true", "false", "false", "false", "true"]
    assert _group(dataset, "people.male") == ["unknown"] + ["< 0.5"] * 9 + [">= 0.5"] * 10
    assert _group(dataset, "rating")[:3] == ["9", "10", "11"]


def test_a_nested_label_is_found_by_its_dotted_name(directory):
    dataset = _load(directory, text="text", label="people.sex")
    assert dataset.info.label_names == ("woman", "man")


def test_a_number_without_names_labels_by_value(directory):
    dataset = _load(directory, text="text", label="rating")
    assert dataset.info.label_names == ("9", "10", "11")
    assert list(dataset.train.labels[:4]) == [0, 1, 2, 0]


def test_a_threshold_makes_two_labels_of_a_number(directory):
    dataset = _load(directory, text="text", label="toxicity", label_threshold=0.5)
    assert dataset.info.label_names == ("0", "1")
    assert list(dataset.train.labels) == [0] * 10 + [1] * 10


def test_both_sides_of_a_threshold_can_be_named(directory):
    names = ["fine", "toxic"]
    dataset = _load(
        directory, text="text", label="toxicity", label_threshold=0.5, label_names=names
    )
    assert dataset.info.label_names == ("fine", "toxic")
    assert list(np.bincount(dataset.train.labels)) == [10, 10]


def test_parts_of_splits_can_be_named(directory):
    dataset = _load(directory, text="text", train="train[:50%]", test="train[50%:]")
    assert dataset.train.read(np.array([9])).raw[0] == "text 9 äöü".encode()
    assert dataset.test.read(np.array([0])).raw[0] == "text 10 äöü".encode()


def test_a_limit_keeps_images_and_labels_together(directory):
    split = _load(directory, image="pixels", limit=5).train
    examples = split.read(np.arange(5))
    np.testing.assert_array_equal(examples.raw[:, 0, 0, 0] % 2, examples.labels)


WRONG = {
    "data.tfds.text: expected exactly one of": {},
    "data.tfds.text: expected one of the features": {"text": "words"},
    "data.tfds.text: expected a text feature": {"text": "rating"},
    "data.tfds.image: expected an Image feature": {"image": "text"},
    "data.tfds.label: expected one of the features": {"text": "text", "label": "people"},
    "data.tfds.label: expected a feature of one value": {"text": "text", "label": "tags"},
    "data.tfds.groups: expected one of the features": {"text": "text", "groups": ["sex"]},
    "data.tfds.label_threshold: expected a number": {"text": "text", "label": "toxicity"},
    "data.tfds.label_threshold: expected none": {"text": "text", "label_threshold": 0.5},
    "data.tfds.train: expected a split of trial": {"text": "text", "train": "training"},
    "data.tfds.validation: expected a split of trial": {"text": "text", "validation": "val"},
    "data.tfds.name: expected exactly one of": {"text": "text", "name": "mnist"},
}


@pytest.mark.parametrize(("message", "changes"), WRONG.items(), ids=WRONG)
def test_a_mapping_that_does_not_fit_names_the_setting(directory, message, changes):
    with pytest.raises(SettingError) as error:
        _load(directory, **changes)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_a_missing_split_lists_those_there_are(directory):
    with pytest.raises(SettingError, match=r"\['train', 'test'\], or null to cut one from train"):
        _load(directory, text="text", test="testing")


def test_a_folder_that_is_not_prepared_is_refused(tmp_path):
    with pytest.raises(SettingError, match=r"data\.tfds\.directory: expected a prepared TFDS"):
        _load(tmp_path, text="text")


def test_a_name_that_tfds_does_not_know_is_refused():
    settings = DataSettings(source="tfds", tfds=TfdsSettings(name="no_such_set", text="text"))
    with pytest.raises(SettingError, match=r"data\.tfds\.name: expected a dataset that TFDS knows"):
        data.load(settings)


@pytest.mark.parametrize("file_format", FORMATS)
def test_an_example_without_a_label_is_named_or_skipped(tmp_path, file_format):
    examples = {"train": [_example(0), _example(1), _example(2, label=-1), _example(3)]}
    directory = _prepare(tmp_path, file_format, examples)
    with pytest.raises(UserError, match=r"trial/plain/1\.2\.0 train, example 2: has no label"):
        _load(directory, image="pixels", test=None)
    dataset = _load(directory, image="pixels", test="train[:2]", on_error="skip")
    assert len(dataset.info.skipped["train"]) == 1
    np.testing.assert_array_equal(dataset.train.read(np.arange(3)).raw[:, 0, 0, 0], [0, 1, 3])
    origin = dataset.train.origin
    assert (origin.records.tolist(), origin.count) == ([0, 1, 3], 4)
    assert origin.source == "trial/plain/1.2.0 train"


def test_images_that_do_not_fit_in_memory_are_refused_with_the_remedy(tmp_path, monkeypatch):
    examples = {"train": [_example(number) for number in range(4)]}
    directory = _prepare(tmp_path, "tfrecord", examples)
    monkeypatch.setattr(tfds_rows, "MEMORY_LIMIT_BYTES", 100)
    with pytest.raises(UserError, match="file_format='array_record'"):
        _load(directory, image="image", test="train")


class SterlingTrialByName(tfds.core.GeneratorBasedBuilder):
    """A dataset that TFDS finds by its name, as it finds its own."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return self.dataset_info_from_configs(features=FEATURES)

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(count) for split, count in COUNTS.items()}

    def _generate_examples(self, count):
        for number in range(count):
            yield number, _example(number)


def test_a_named_dataset_is_prepared_for_random_access(tmp_path):
    chosen = TfdsSettings(name="sterling_trial_by_name", data_dir=str(tmp_path), image="pixels")
    settings = DataSettings(source="tfds", tfds=chosen, **KEEP_ALL)
    first, again = data.load(settings), data.load(settings)
    assert len(list(tmp_path.rglob("*.array_record*"))) == 2
    for dataset in (first, again):
        examples = dataset.train.read(np.arange(20))
        np.testing.assert_array_equal(examples.raw[:, 0, 0, 0] % 2, examples.labels)


def test_a_named_dataset_that_was_prepared_as_tfrecord_is_used_as_it_is(tmp_path):
    tfds.builder("sterling_trial_by_name", data_dir=tmp_path).download_and_prepare()
    chosen = TfdsSettings(name="sterling_trial_by_name", data_dir=str(tmp_path), text="text")
    assert len(data.load(DataSettings(source="tfds", tfds=chosen, **KEEP_ALL)).train) == 20
    assert list(tmp_path.rglob("*.array_record*")) == []


def test_other_examples_of_the_same_version_are_other_data(tmp_path):
    digests = []
    for name, labels in (("one", (0, 1)), ("same", (0, 1)), ("other", (0, 0))):
        examples = {"train": [_example(number, label) for number, label in enumerate(labels * 5)]}
        examples["train"][1]["label"] = 1  # two labels in every one of them
        prepared = _prepare(tmp_path / name, "array_record", examples)
        info = _load(prepared, text="text", label="label", test=None).info
        (digest,) = info.provenance.sha256.values()
        digests.append(digest)
    one, same, other = digests
    assert one == same != other
