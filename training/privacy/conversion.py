"""Makes a model private in kind: batch normalization, which mixes examples, becomes another.

The result is a new model with the old one's weights wherever they fit. Frozen statistics keep the
function that the model computes in inference; group normalization learns anew and needs none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import keras

from configs.schema import UserError
from models.trainability import train_only

Replacement = Literal["group", "frozen"]


def to_private(
    model: keras.Model, normalization: Replacement = "frozen", groups: int = 32
) -> keras.Model:
    """A copy of a functional or sequential model without batch statistics.

    Args:
        model: The model; unchanged.
        normalization: `frozen` keeps the moving statistics as constants, and with them what the
            model computes; `group` puts group normalization in their place (Wu & He 2018,
            1803.08494), right for models trained from the start.
        groups: Groups of channels for `group`; lowered to the largest number that divides a
            layer's channels.

    Returns:
        The copy. Scale and offset are copied in both cases; with `group` the statistics are
        dropped. What trained before trains; layers that are frozen as a whole stay as they are.

    Raises:
        UserError: If the model is a subclass that cannot be copied layer by layer.
    """
    if not _is_graph(model):
        raise UserError(
            f"model: {type(model).__name__} is a class of its own and cannot be converted. "
            "Replace its BatchNormalization layers by GroupNormalization where it makes them."
        )
    replace = _REPLACEMENTS[normalization]

    def clone(layer: keras.Layer | keras.Operation) -> keras.Layer | keras.Operation:
        if _mixes(layer):
            return replace(layer, groups)
        if _mixing_inside(layer):
            if _is_graph(layer):
                return to_private(layer, normalization, groups)
            raise UserError(
                f"model: layer '{layer.path}' ({type(layer).__name__}) holds batch normalization "
                "inside and cannot be converted. Replace it where the layer is made."
            )
        return type(layer).from_config(layer.get_config())

    if isinstance(model, keras.Sequential):
        converted = keras.models.clone_model(model, clone_function=clone)
    else:
        converted = keras.models.clone_model(model, clone_function=clone, call_function=_call)
    _copy_weights(model, converted)
    _copy_trainability(model, converted)
    return converted


def _call(layer: keras.Layer, *args: Any, **kwargs: Any) -> Any:
    """Calls a copied layer as the graph called its original."""
    if isinstance(layer, keras.layers.GroupNormalization):
        kwargs.pop("mask", None)  # batch normalization takes one
    return layer(*args, **kwargs)


def _is_graph(layer: keras.Layer) -> bool:
    """Whether the layer is a sequential or functional model, whose layers can be exchanged."""
    return isinstance(layer, keras.Sequential) or hasattr(layer, "operations")


def _mixes(layer: keras.Layer) -> bool:
    """Whether the layer is batch normalization that would use the statistics of a batch."""
    return (
        isinstance(layer, keras.layers.BatchNormalization)
        and getattr(layer, "mixes_examples", True)
        and layer.trainable
    )


def _mixing_inside(layer: keras.Layer | keras.Operation) -> bool:
    if not isinstance(layer, keras.Layer):  # a function of the graph, as in `2 * x`
        return False
    return any(_mixes(inner) for inner in layer._flatten_layers(include_self=False))


def _frozen(layer: keras.layers.BatchNormalization, groups: int) -> keras.Layer:
    del groups
    from models.frozen_batch_normalization import FrozenBatchNormalization

    config = layer.get_config()
    config.pop("synchronized", None)
    return FrozenBatchNormalization.from_config(config)


def _group(layer: keras.layers.BatchNormalization, groups: int) -> keras.Layer:
    channels = next(
        v.shape[0] for v in (layer.gamma, layer.beta, layer.moving_mean) if v is not None
    )
    fitting = max(n for n in range(1, groups + 1) if channels % n == 0)
    return keras.layers.GroupNormalization(
        groups=fitting,
        axis=layer.axis,
        epsilon=layer.epsilon,
        center=layer.center,
        scale=layer.scale,
        trainable=layer.trainable,
        name=layer.name,
        dtype=layer.dtype_policy,
    )


_REPLACEMENTS: dict[str, Callable[[keras.layers.BatchNormalization, int], keras.Layer]] = {
    "frozen": _frozen,
    "group": _group,
}


def _copy_weights(source: keras.Model, target: keras.Model) -> None:
    for old, new in zip(source.layers, target.layers, strict=True):
        if isinstance(new, keras.layers.GroupNormalization) and _mixes(old):
            for name in ("gamma", "beta"):
                if getattr(old, name) is not None:
                    getattr(new, name).assign(getattr(old, name))
        elif not _mixing_inside(old):  # models inside were copied with their weights
            new.set_weights(old.get_weights())


def _copy_trainability(source: keras.Model, target: keras.Model) -> None:
    """Freezes in the copy what is frozen in the model, variable by variable."""
    frozen = {v.path for v in source.weights} - {v.path for v in source.trainable_variables}
    frozen -= {v.path for layer in source._flatten_layers() for v in layer._non_trainable_variables}
    if frozen:
        train_only(target, [v for v in target.trainable_variables if v.path not in frozen])
