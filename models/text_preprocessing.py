"""Raw text to token ids inside the graph, as the BERT checkpoint's own tokenizer does it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import keras_hub
import tensorflow as tf


class TextPreprocessor(tf.Module):
    """WordPiece tokens between [CLS] and [SEP], cut or padded to a fixed length.

    Gives the ids that `transformers.BertTokenizer` gives for the same vocabulary.

    Args:
        vocabulary: Word pieces in id order.
        lowercase: Fold case before splitting.
        strip_accents: Remove accents before splitting.
        sequence_length: Tokens per example, [CLS] and [SEP] included.
    """

    modality: Literal["text"] = "text"

    def __init__(
        self,
        vocabulary: Sequence[str],
        *,
        lowercase: bool,
        strip_accents: bool,
        sequence_length: int,
    ):
        super().__init__(name="text_preprocessor")
        self.vocabulary = tuple(vocabulary)
        self.lowercase = lowercase
        self.strip_accents = strip_accents
        self.sequence_length = sequence_length
        self.tokenizer = keras_hub.models.BertTokenizer(
            list(vocabulary), lowercase=lowercase, strip_accents=strip_accents
        )
        self.packer = keras_hub.layers.StartEndPacker(
            sequence_length=sequence_length,
            start_value=self.tokenizer.cls_token_id,
            end_value=self.tokenizer.sep_token_id,
            pad_value=self.tokenizer.pad_token_id,
            return_padding_mask=True,
        )
        spec = tf.TensorSpec((sequence_length,), tf.int32)
        self.batched_outputs = {"token_ids": spec, "padding_mask": spec, "segment_ids": spec}
        # Traced, because KerasHub tokenizes word by word in Python when called eagerly.
        self._traced = tf.function(
            self._pack, input_signature=[tf.TensorSpec((None,), tf.string)], autograph=False
        )

    def _pack(self, raw: tf.Tensor) -> dict[str, tf.Tensor]:
        token_ids, padding_mask = self.packer(self.tokenizer(raw))
        token_ids = tf.ensure_shape(token_ids, (None, self.sequence_length))
        padding_mask = tf.ensure_shape(padding_mask, (None, self.sequence_length))
        return {
            "token_ids": tf.cast(token_ids, tf.int32),
            "padding_mask": tf.cast(padding_mask, tf.int32),
            "segment_ids": tf.zeros_like(token_ids, tf.int32),
        }

    def __call__(self, raw: tf.Tensor) -> dict[str, tf.Tensor]:
        """Maps UTF-8 strings (batch,) to three int32 (batch, sequence_length) tensors.

        Returns:
            `token_ids`; `padding_mask`, 1 where a token is real; `segment_ids`, all zero.
        """
        return self._traced(raw)
