"""Every clipping method equals the naive per-example loop, and stands in plan, ledger and words."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from configs.schema import ClippingGroup, ClippingSettings, PrivacySettings, SettingError
from tests.training.privacy.naive import cross_entropy, per_example_gradients, relative_error
from training.privacy.clip_methods import (
    CLIP_METHODS,
    AdaptiveClipping,
    AutomaticClipping,
    ClipMethod,
    FlatClipping,
    GlobalAdaptClipping,
    GroupClipping,
    PerLayerClipping,
)
from training.privacy.clipping import clipped_gradient_sum
from training.privacy.plan import PrivacyPlan
from training.privacy.sites import find_sites

L = keras.layers
BATCH = 5
PATHS = ["embedding/table", "body/dense/kernel", "body/dense/bias", "head/kernel", "head/bias"]


def text_model() -> keras.Model:
    keras.utils.set_random_seed(3)
    ids = keras.Input((6,), dtype="int32")
    table = L.ReversibleEmbedding(4, 5, name="table")
    x = L.LayerNormalization(name="norm")(table(ids))
    x = L.MultiHeadAttention(2, 3, name="attention")(x, x)
    return keras.Model(ids, table(L.GlobalAveragePooling1D()(x), reverse=True))


def image_model() -> keras.Model:
    keras.utils.set_random_seed(4)
    image = keras.Input((6, 6, 2))
    x = L.Conv2D(4, 3, activation="relu", name="body")(image)
    x = L.GroupNormalization(2, name="norm")(x)
    return keras.Model(image, L.Dense(4, name="head")(L.Flatten()(x)))


def text_batch() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 4, (BATCH, 6)).astype("int32")


def image_batch() -> np.ndarray:
    generator = np.random.default_rng(1)
    scales = np.array([0.1, 0.5, 1.0, 2.0, 6.0])[:, None, None, None]  # norms of all sizes
    return (generator.normal(size=(BATCH, 6, 6, 2)) * scales).astype("float32")


MODELS: dict[str, tuple[Callable[[], keras.Model], Callable[[], np.ndarray], str]] = {
    "text": (text_model, text_batch, "table*"),
    "image": (image_model, image_batch, "body/*"),
}


def layer_of(path: str) -> str:
    return path[: path.rindex("/")]


# Each written out again as its paper has it: (norms of one example's variables, paths, C, first
# group's pattern) -> factor of each variable.
def naive_flat(norms: np.ndarray, paths: list[str], bound: float, first: str) -> np.ndarray:
    return np.full(len(paths), min(1.0, bound / np.linalg.norm(norms)))


def naive_automatic(norms: np.ndarray, paths: list[str], bound: float, first: str) -> np.ndarray:
    return np.full(len(paths), bound / (np.linalg.norm(norms) + 0.05))


def naive_global(norms: np.ndarray, paths: list[str], bound: float, first: str) -> np.ndarray:
    norm, threshold = np.linalg.norm(norms), 1.5 * bound
    return np.full(len(paths), bound / threshold if norm <= threshold else bound / norm)


def naive_groups(norms: np.ndarray, names: list[Any], bounds: dict[Any, float]) -> np.ndarray:
    factors = np.ones(len(names))
    for name, bound in bounds.items():
        members = np.array([other == name for other in names])
        factors[members] = min(1.0, bound / np.linalg.norm(norms[members]))
    return factors


def naive_per_layer(norms: np.ndarray, paths: list[str], bound: float, first: str) -> np.ndarray:
    names = [layer_of(path) for path in paths]
    return naive_groups(norms, names, dict.fromkeys(names, bound / np.sqrt(len(set(names)))))


def naive_two(norms: np.ndarray, paths: list[str], bound: float, first: str) -> np.ndarray:
    names = [path.startswith(first.rstrip("*")) for path in paths]
    return naive_groups(norms, names, {True: 0.6 * bound, False: 0.8 * bound})


METHODS: dict[str, tuple[Callable[[float, str], ClipMethod], Callable[..., np.ndarray]]] = {
    "flat": (lambda c, first: FlatClipping(c), naive_flat),
    "per_layer": (lambda c, first: PerLayerClipping(c), naive_per_layer),
    "groups": (
        lambda c, first: GroupClipping(c, (ClippingGroup(first, 0.6 * c), ClippingGroup("*"))),
        naive_two,
    ),
    "automatic": (lambda c, first: AutomaticClipping(c, 0.05), naive_automatic),
    "adaptive": (lambda c, first: AdaptiveClipping(c), naive_flat),
    "global_adapt": (lambda c, first: GlobalAdaptClipping(c, 1.5 * c), naive_global),
}


def test_every_method_is_tested() -> None:
    assert set(METHODS) == set(CLIP_METHODS)


@pytest.fixture(scope="module", params=MODELS)
def case(request: pytest.FixtureRequest) -> Any:
    build, draw, first = MODELS[request.param]
    model, inputs = build(), draw()
    labels = np.arange(BATCH) % 3
    gradients = per_example_gradients(model, {"inputs": inputs, "labels": labels})
    return model, inputs, labels, gradients, first, find_sites(model)


@pytest.mark.parametrize("name", METHODS)
def test_clipped_sum_is_that_of_the_naive_loop(name: str, case: Any) -> None:
    model, inputs, labels, gradients, first, sites = case
    paths = [v.path for v in model.trainable_variables]
    mask = np.arange(BATCH) != 2
    norms = np.array([[np.linalg.norm(g) for g in example] for example in gradients])
    whole = np.linalg.norm(norms, axis=1)
    batch = {"inputs": inputs, "labels": labels, "mask": mask}
    batch = {key: tf.constant(value) for key, value in batch.items()}
    make, naive = METHODS[name]
    uncut = {"global_adapt": 1 / 1.5}.get(name, 1.0)  # the factor of who is not cut
    for bound in (whole.min() / 2, 1.01 * float(np.median(whole)), 2 * whole.max()):
        expected, cut = [np.zeros_like(g) for g in gradients[0]], []
        for example, of_variables, real in zip(gradients, norms, mask, strict=True):
            factors = naive(of_variables, paths, bound, first)
            length = np.sqrt(sum((f * n) ** 2 for f, n in zip(factors, of_variables, strict=True)))
            assert length <= bound * (1 + 1e-12)
            whole_norm = np.linalg.norm(of_variables)
            # Automatic clipping cuts nobody; there it says who is longer than the bound.
            cut.append(whole_norm > bound if name == "automatic" else factors.min() < uncut)
            for total, gradient, factor in zip(expected, example, factors, strict=True):
                total += real * factor * gradient
        found = clipped_gradient_sum(model, cross_entropy, batch, make(bound, first), sites)
        assert relative_error(found.gradients, expected) <= 1e-5
        np.testing.assert_allclose(found.norms[mask], whole[mask], rtol=1e-5)
        assert np.array_equal(found.used, mask)
        assert np.array_equal(found.relative_norms[mask] > 1, np.array(cut)[mask])
        if name not in ("per_layer", "groups"):
            relative = uncut * whole / bound
            np.testing.assert_allclose(found.relative_norms[mask], relative[mask], rtol=1e-5)


def test_automatic_clipping_leaves_a_zero_gradient_at_zero() -> None:
    factors = AutomaticClipping(2.0, 0.01).factors(tf.constant([[0.0], [1e9]]), tf.constant([2.0]))
    np.testing.assert_allclose(factors, [[200.0], [2e-9]], rtol=1e-6)


def test_layers_share_the_bound_equally() -> None:
    grouping = PerLayerClipping(1.0).grouping(PATHS)
    assert grouping.group_of == (0, 1, 1, 2, 2)
    assert grouping.shares == pytest.approx([3**-0.5] * 3)


def test_groups_without_a_bound_share_what_the_others_leave() -> None:
    groups = [ClippingGroup("embedding/*", 3.0), ClippingGroup("body/*"), ClippingGroup("*")]
    method = GroupClipping(5.0, tuple(groups))
    assert method.bounds == pytest.approx([3.0, 8**0.5, 8**0.5])
    grouping = method.grouping(PATHS)
    assert grouping.group_of == (0, 1, 1, 2, 2)
    assert np.linalg.norm(grouping.shares) == pytest.approx(1.0)


@pytest.mark.parametrize("bounds", [(0.60001, 0.80001), (0.6, 0.8), (0.59999, 0.8)])
def test_rounded_bounds_of_groups_never_exceed_the_clipping_norm(bounds: Any) -> None:
    groups = [ClippingGroup(name, bound) for name, bound in zip("ab", bounds, strict=True)]
    assert np.linalg.norm(GroupClipping(1.0, tuple(groups)).bounds) <= 1.0 + 1e-15


@pytest.mark.parametrize("bounds", [(0.6, 0.9), (0.5, 0.5), (1.0, None), (2.0, None)])
def test_bounds_that_do_not_make_up_the_clipping_norm_are_refused(bounds: Any) -> None:
    groups = [ClippingGroup(name, bound) for name, bound in zip("ab", bounds, strict=True)]
    with pytest.raises(SettingError, match=r"privacy\.clipping\.groups: .*clipping_norm \(1;"):
        GroupClipping(1.0, tuple(groups))


def test_variable_in_no_group_is_refused_by_name() -> None:
    method = GroupClipping(1.0, (ClippingGroup("embedding/*"), ClippingGroup("body/*")))
    with pytest.raises(SettingError, match="also 'head/kernel'"):
        method.grouping(PATHS)


def test_pattern_that_matches_nothing_is_refused() -> None:
    method = GroupClipping(1.0, (ClippingGroup("embeding/*"), ClippingGroup("*")))
    with pytest.raises(SettingError, match=r"first to match .* Received: 'embeding/\*'"):
        method.grouping(PATHS)


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"method": "groups"}, r"privacy\.clipping\.groups"),
        ({"groups": [ClippingGroup("*")]}, r"privacy\.clipping\.groups"),
        ({"stability": 0.0}, r"privacy\.clipping\.stability"),
        ({"method": "global_adapt", "threshold": 0.0}, r"privacy\.clipping\.threshold"),
        ({"method": "flat", "threshold": 2.0}, r"privacy\.clipping\.threshold"),
        ({"target_quantile": 1.0}, r"privacy\.clipping\.target_quantile"),
        ({"learning_rate": -0.1}, r"privacy\.clipping\.learning_rate"),
        ({"count_share": 1.0}, r"privacy\.clipping\.count_share"),
    ],
)
def test_impossible_settings_are_refused_by_name(settings: dict[str, Any], key: str) -> None:
    with pytest.raises(SettingError, match=key):
        ClippingSettings(**settings)


def test_group_with_a_bound_of_zero_is_refused() -> None:
    with pytest.raises(SettingError, match=r"privacy\.clipping\.groups\.bound"):
        ClippingGroup("*", 0.0)


SETTINGS = {
    "flat": (ClippingSettings(), "clipped to L2 norm 0.5"),
    "per_layer": (ClippingSettings("per_layer"), "layer by layer"),
    "groups": (
        ClippingSettings("groups", [ClippingGroup("body/*", 0.3), ClippingGroup("*")]),
        "by groups of variables ('body/*' to 0.3, '*' to 0.4), all together to 0.5",
    ),
    "automatic": (ClippingSettings("automatic", stability=0.1), "0.5 g / (|g| + 0.1)"),
    "adaptive": (
        ClippingSettings("adaptive", target_quantile=0.3),
        "starts at 0.5 and moves towards what a share of 0.3",
    ),
    "global_adapt": (
        ClippingSettings("global_adapt", threshold=2.0),
        "scaled by 0.5 / threshold, longer ones cut to 0.5; the threshold starts at 2 and moves "
        "towards what a share of 0.9",
    ),
}


@pytest.mark.parametrize("method", SETTINGS)
def test_method_stands_in_the_ledger_and_in_the_statement(method: str) -> None:
    clipping, words = SETTINGS[method]
    assert clipping.method == method
    settings = PrivacySettings(
        enabled=True, noise_multiplier=1.1, clipping_norm=0.5, clipping=clipping
    )
    plan = PrivacyPlan.from_settings(settings, num_examples=1000, batch_size=50, steps=20)
    document = json.loads(json.dumps(plan.to_dict()))
    again = PrivacyPlan.from_dict(document)
    assert again == plan
    assert again.fingerprint == plan.fingerprint
    assert words in plan.statement(20, reproducible=False)
    # What is released costs the same by whatever method it was bounded.
    flat = PrivacyPlan.dp_sgd(
        num_examples=1000,
        batch_size=50,
        steps=20,
        clipping_norm=0.5,
        noise_multiplier=1.1,
        delta=plan.delta,
    )
    assert plan.epsilon(20) == flat.epsilon(20)
    assert method == "flat" or plan.fingerprint != flat.fingerprint
