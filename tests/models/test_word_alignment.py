"""Words find their tokens."""

import pytest

import models
from configs.schema import BertSettings, ModelSettings
from models.word_alignment import align_words
from tests.models.conftest import TEXTS, VOCABULARY


@pytest.fixture(scope="module")
def built(tiny_bert):
    bert = BertSettings(weights=str(tiny_bert), sequence_length=14)
    return models.build(ModelSettings(bert=bert), num_classes=2, modality="text")


def test_pieces_of_every_word_spell_it(built):
    text = TEXTS[1]
    ids = built.preprocess([text])["token_ids"].numpy()[0]
    words = align_words(built, [text])[0]
    assert [text[word.start : word.end] for word in words] == (
        ["Unbelievable", ",", "Zoë", "ran", "under", "a", "CAFÉ", "!"]
    )
    spelled = ["".join(VOCABULARY[ids[i]].removeprefix("##") for i in w.tokens) for w in words]
    assert spelled == ["unbelievable", ",", "zoe", "ran", "under", "a", "cafe", "!"]


def test_words_behind_the_sequence_length_are_left_out(built):
    words = align_words(built, [TEXTS[4], ""])
    assert [word.tokens for word in words[0]] == [(position,) for position in range(1, 13)]
    assert words[1] == []
