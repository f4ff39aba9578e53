"""Which tokens of the model's input make up which word of the text.

For whatever is said about words while the model sees word pieces: explanations, highlighting,
labels of single words. KerasHub's tokenizer forgets where its pieces came from; `transformers`'
remembers, and gives the same ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from models.bert import BuiltBert
from models.bert_checkpoint import transformers_tokenizer


@dataclass(frozen=True)
class Word:
    """A word or punctuation mark, and its place in the text and in the model's input.

    Attributes:
        start: Index of its first character.
        end: Index after its last character; `text[start:end]` is the word as written.
        tokens: Positions of its word pieces in `token_ids`.
    """

    start: int
    end: int
    tokens: tuple[int, ...]


def align_words(built: BuiltBert, texts: Sequence[str]) -> list[list[Word]]:
    """Returns the words of each text that reach the model, in order.

    Words behind `sequence_length` are left out; one that is cut keeps the pieces that fit.
    """
    tokenizer = transformers_tokenizer(built.checkpoint, built.settings.sequence_length)
    aligned = []
    for text in texts:
        encoding = tokenizer(text, truncation=True, return_offsets_mapping=True)
        spans = encoding["offset_mapping"]
        positions: dict[int, list[int]] = {}
        for position, word in enumerate(encoding.word_ids()):
            if word is not None:  # [CLS] and [SEP] belong to no word
                positions.setdefault(word, []).append(position)
        aligned.append(
            [
                Word(spans[tokens[0]][0], spans[tokens[-1]][1], tuple(tokens))
                for tokens in positions.values()
            ]
        )
    return aligned
