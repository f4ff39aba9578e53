"""Low-rank adaptation through Keras' own `enable_lora`: W + (alpha / rank) A B, with W frozen.

Keras keeps W, A and B apart while the model trains, and so do checkpoints. What leaves Sterling
(SavedModel, `.keras`, Hugging Face) holds the sum: no reader needs to know of LoRA, and nothing is
computed twice when the model is served. Keras merges when it saves, too, but gives back a layer
whose A and B are both zero, which no gradient ever moves; hence the merging here. B starts at
zero, so the model starts as it was pretrained.

Where a kernel has more than two axes (attention's per-head projections), Keras factors its last
axis only: A is (hidden, heads, rank) and B (rank, head width), one B for all heads.

Source: Hu et al. 2021 (2106.09685); Yu et al. 2021 (2110.06500) for its use under privacy.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import keras


def add_lora(layers: Iterable[Any], *, rank: int, alpha: float) -> list[keras.Variable]:
    """Gives every layer a trainable low-rank change of its kernel, zero at the start.

    Args:
        layers: Built layers with `enable_lora` and a bias: Dense, EinsumDense or convolutions.
        rank: Columns of A and rows of B.
        alpha: The change is `alpha / rank` times A B.

    Returns:
        A and B of every layer, float32.
    """
    added = []
    for layer in layers:
        # What one output sums over, so that x A has the size of x. A per-head kernel's heads are
        # outputs, though they are not its last axis; only the bias tells.
        inputs = math.prod(layer.kernel.shape) // math.prod(layer.bias.shape)
        layer.enable_lora(
            rank,
            lora_alpha=alpha,
            a_initializer=keras.initializers.RandomNormal(stddev=1.0 / math.sqrt(inputs)),
        )
        added += [layer.lora_kernel_a, layer.lora_kernel_b]
    return added


def lora_variables(model: keras.Model) -> list[keras.Variable]:
    """A and B of every layer of a model that has them."""
    return [
        variable
        for layer in model._flatten_layers()
        if getattr(layer, "lora_kernel_a", None) is not None
        for variable in (layer.lora_kernel_a, layer.lora_kernel_b)
    ]


@contextmanager
def merged_lora(model: keras.Model) -> Iterator[None]:
    """Inside this context every kernel holds its low-rank change, and LoRA is off.

    The model computes the same function; a layer's configuration does not mention LoRA. Leaving
    puts every kernel back, bit by bit.
    """
    kept: list[tuple[Any, Any, int]] = []
    try:
        for layer in model._flatten_layers():
            if getattr(layer, "lora_enabled", False):
                kept.append((layer, layer._kernel.numpy(), layer.lora_rank))
                layer._kernel.assign(layer.kernel)
                layer.lora_enabled, layer.lora_rank = False, None
        yield
    finally:
        for layer, kernel, rank in kept:
            layer._kernel.assign(kernel)
            layer.lora_enabled, layer.lora_rank = True, rank
