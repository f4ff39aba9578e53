import io

import numpy as np
from PIL import Image

from data.columns import bytes_column
from data.images import undecodable


def _png(colour):
    file = io.BytesIO()
    Image.new("RGB", (3, 2), colour).save(file, "PNG")
    return file.getvalue()


def test_every_corrupt_image_among_many_is_found_in_order():
    images = [_png((number % 256, 0, 0)) for number in range(2_000)]
    corrupt = [0, 31, 32, 700, 1_023, 1_024, 1_999]
    for position in corrupt:
        images[position] = images[position][:20]
    assert [position for position, _ in undecodable(bytes_column(images))] == corrupt


def test_stopping_at_the_first_corrupt_image_leaves_the_rest_unread():
    class Counting:
        def __init__(self):
            self.column = bytes_column([b"corrupt"] * 100_000)
            self.read = 0

        def __len__(self):
            return len(self.column)

        def take(self, indices):
            self.read += len(indices)
            return self.column.take(indices)

    images = Counting()
    position, problem = next(undecodable(images))
    assert position == 0
    assert "not a readable PNG, JPEG, GIF or BMP image" in problem
    assert images.read < 50_000


def test_no_image_is_no_problem():
    assert list(undecodable(bytes_column([]))) == []
    assert len(bytes_column([]).take(np.zeros(0, np.int64))) == 0
