"""ResNet50 v1, a bottleneck with the stride in its first convolution (He et al. 2015, 1512.03385).

With batch normalization, the ImageNet stem and 1000 classes its layers have the names, shapes and
arithmetic of `keras.applications.ResNet50`, parameter for parameter (25,636,712).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import keras

from configs.schema import ModelSettings, ResNet50Settings
from models import heads, resnet50_weights
from models.contracts import BuiltModel
from models.frozen_batch_normalization import FrozenBatchNormalization
from models.image_preprocessing import CHANNELS, ImagePreprocessor, PixelScaling
from models.lora import add_lora
from models.trainability import train_only

HEAD = "predictions"
_EPSILON = 1.001e-5
# (name, filters of the bottleneck, blocks, stride of the first block)
_STAGES = (("conv2", 64, 3, 1), ("conv3", 128, 4, 2), ("conv4", 256, 6, 2), ("conv5", 512, 3, 2))

Normalize = Callable[[str, Any], Any]
_convolution = partial(keras.layers.Conv2D, kernel_initializer="he_normal")


def build_resnet50(
    settings: ModelSettings,
    *,
    num_classes: int,
    modality: str,
    input_shape: tuple[int, ...] | None,
) -> BuiltModel:
    """Builds ResNet50; see `ResNet50Settings`.

    The model takes `image`, float32 (batch, size, size, 3). Pretrained weights keep their head
    where the number of classes is the same and get a fresh one where it is not.

    Raises:
        SettingError: The weights file is missing or is not a ResNet50's.
        UserError: ImageNet weights cannot be downloaded.
    """
    del modality, input_shape  # images are all it takes, and the settings say how large
    resnet = settings.resnet50
    model = _lay_out(resnet, num_classes)
    origin = {"source": "random initialization"}
    if resnet.weights is not None:
        tensors, origin = resnet50_weights.read(resnet.weights)
        resnet50_weights.assign(
            model, tensors, source=resnet.weights, normalization=resnet.normalization, head=HEAD
        )
    train_only(model, [*model.get_layer(HEAD).weights, *_TUNINGS[resnet.trainable](model, resnet)])
    return BuiltModel(model, ImagePreprocessor(resnet.image_size, _pixel_scaling(resnet)), origin)


def _stages(model: keras.Model, settings: ResNet50Settings) -> list[keras.Variable]:
    last = tuple(name for name, *_ in _STAGES[-settings.top_k :])
    return [v for layer in model.layers if layer.name.startswith(last) for v in layer.weights]


def _biases_and_scales(model: keras.Model, settings: ResNet50Settings) -> list[keras.Variable]:
    """Bu et al. 2022 (2210.00036), where a convolution's bias is its normalization's offset."""
    return [v for v in model.trainable_weights if v.name in ("bias", "beta", "gamma")]


def _low_rank(model: keras.Model, settings: ResNet50Settings) -> list[keras.Variable]:
    stages = tuple(name for name, *_ in _STAGES)
    convolutions = [
        layer
        for layer in model.layers
        if layer.name.startswith(stages) and layer.name.endswith("_conv")
    ]
    return add_lora(convolutions, rank=settings.lora_rank, alpha=settings.lora_alpha)


_TUNINGS: dict[str, Callable[[keras.Model, ResNet50Settings], list[keras.Variable]]] = {
    "head": lambda model, settings: [],
    "top_k": _stages,
    "bitfit": _biases_and_scales,
    "lora": _low_rank,
    "all": lambda model, settings: model.trainable_weights,
}


def _pixel_scaling(settings: ResNet50Settings) -> PixelScaling:
    if settings.pixel_scaling == "auto":
        return "imagenet" if settings.weights is not None else "symmetric"
    return settings.pixel_scaling


def _lay_out(settings: ResNet50Settings, num_classes: int) -> keras.Model:
    normalize = partial(_NORMALIZATIONS[settings.normalization], settings)
    image = keras.Input((settings.image_size, settings.image_size, CHANNELS), name="image")
    x = _STEMS[settings.stem](image, normalize)
    for name, filters, blocks, stride in _STAGES:
        for block in range(blocks):
            x = _block(
                x, filters, stride if block == 0 else 1, f"{name}_block{block + 1}", normalize
            )
    x = keras.layers.GlobalAveragePooling2D(name="avg_pool")(x)  # (batch, 2048)
    return keras.Model({"image": image}, heads.logits(x, num_classes, name=HEAD), name="resnet50")


def _imagenet_stem(image: Any, normalize: Normalize) -> Any:
    """Quarters height and width: 7x7 stride 2, then 3x3 max-pooling stride 2."""
    x = keras.layers.ZeroPadding2D(3, name="conv1_pad")(image)
    x = _convolution(64, 7, strides=2, name="conv1_conv")(x)
    x = keras.layers.Activation("relu", name="conv1_relu")(normalize("conv1", x))
    x = keras.layers.ZeroPadding2D(1, name="pool1_pad")(x)
    return keras.layers.MaxPooling2D(3, strides=2, name="pool1_pool")(x)


def _small_stem(image: Any, normalize: Normalize) -> Any:
    """Keeps height and width, for images too small to lose three quarters of them at once."""
    x = _convolution(64, 3, padding="same", name="conv1_conv")(image)
    return keras.layers.Activation("relu", name="conv1_relu")(normalize("conv1", x))


def _block(x: Any, filters: int, stride: int, name: str, normalize: Normalize) -> Any:
    """A residual bottleneck: 1x1 down, 3x3, 1x1 up to four times `filters`."""
    shortcut = x
    if x.shape[-1] != 4 * filters:
        shortcut = _convolution(4 * filters, 1, strides=stride, name=f"{name}_0_conv")(x)
        shortcut = normalize(f"{name}_0", shortcut)
    x = _convolution(filters, 1, strides=stride, name=f"{name}_1_conv")(x)
    x = keras.layers.Activation("relu", name=f"{name}_1_relu")(normalize(f"{name}_1", x))
    x = _convolution(filters, 3, padding="same", name=f"{name}_2_conv")(x)
    x = keras.layers.Activation("relu", name=f"{name}_2_relu")(normalize(f"{name}_2", x))
    x = _convolution(4 * filters, 1, name=f"{name}_3_conv")(x)
    x = keras.layers.Add(name=f"{name}_add")([shortcut, normalize(f"{name}_3", x)])
    return keras.layers.Activation("relu", name=f"{name}_out")(x)


def _batch(settings: ResNet50Settings, name: str, x: Any) -> Any:
    return keras.layers.BatchNormalization(epsilon=_EPSILON, name=f"{name}_bn")(x)


def _frozen_batch(settings: ResNet50Settings, name: str, x: Any) -> Any:
    return FrozenBatchNormalization(epsilon=_EPSILON, name=f"{name}_bn")(x)


def _group(settings: ResNet50Settings, name: str, x: Any) -> Any:
    return keras.layers.GroupNormalization(
        groups=settings.groups, epsilon=_EPSILON, name=f"{name}_gn"
    )(x)


_NORMALIZATIONS = {"batch": _batch, "frozen_batch": _frozen_batch, "group": _group}
_STEMS = {"imagenet": _imagenet_stem, "small": _small_stem}
