import numpy as np
from sklearn.datasets import load_digits

import data
from configs.schema.data import DataSettings


def test_all_1797_images_are_divided_among_the_splits():
    dataset = data.load(DataSettings(source="digits"))
    assert [len(dataset.split(name)) for name in ("train", "validation", "test")] == [
        1_437,
        180,
        180,
    ]
    assert dataset.info.modality == "image"
    assert dataset.info.groups == {}


def test_images_are_the_sources_own_over_the_whole_grey_scale():
    settings = DataSettings(source="digits", validation_fraction=0.0, test_fraction=0.0)
    train = data.load(settings).train
    examples = train.read(np.arange(len(train)))
    source = load_digits()
    assert examples.raw.dtype == np.uint8
    assert examples.raw.shape == (1_797, 8, 8, 1)
    assert (examples.raw.min(), examples.raw.max()) == (0, 255)
    np.testing.assert_array_equal(np.rint(examples.raw[..., 0] / 255 * 16), source.images)
    np.testing.assert_array_equal(examples.labels, source.target)
