"""Token ids are those of `transformers`, and short and long texts fit."""

import numpy as np
import pytest
import tensorflow as tf

from models.text_preprocessing import TextPreprocessor
from tests.models.conftest import VOCABULARY

LENGTH = 12


@pytest.fixture(scope="module", params=[True, False], ids=["uncased", "cased"])
def lowercase(request):
    return request.param


@pytest.fixture(scope="module")
def ours(lowercase):
    return TextPreprocessor(
        VOCABULARY, lowercase=lowercase, strip_accents=lowercase, sequence_length=LENGTH
    )


def test_ids_and_masks_equal_those_of_transformers(ours, lowercase, texts):
    import transformers

    theirs = transformers.BertTokenizer(
        vocab={piece: index for index, piece in enumerate(VOCABULARY)}, do_lower_case=lowercase
    )(
        [text.decode("utf-8") for text in texts],
        padding="max_length",
        truncation=True,
        max_length=LENGTH,
    )
    inputs = ours(tf.constant(texts))
    np.testing.assert_array_equal(inputs["token_ids"], theirs["input_ids"])
    np.testing.assert_array_equal(inputs["padding_mask"], theirs["attention_mask"])
    np.testing.assert_array_equal(inputs["segment_ids"], theirs["token_type_ids"])


def test_works_inside_a_dataset(ours, texts):
    eager = ours(tf.constant(texts))["token_ids"]
    batches = tf.data.Dataset.from_tensor_slices(tf.constant(texts)).batch(2).map(ours)
    streamed = np.concatenate([batch["token_ids"] for batch in batches])
    np.testing.assert_array_equal(streamed, eager)


def test_long_text_keeps_its_separator_and_empty_text_is_two_tokens(ours, texts):
    inputs = ours(tf.constant(texts))
    ids = np.asarray(inputs["token_ids"])
    separator, start = VOCABULARY.index("[SEP]"), VOCABULARY.index("[CLS]")
    assert ids[4, -1] == separator
    assert np.all(inputs["padding_mask"][4])
    assert ids[3].tolist() == [start, separator] + [0] * (LENGTH - 2)
