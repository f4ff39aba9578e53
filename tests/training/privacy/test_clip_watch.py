"""Who is clipped: counted exactly, bounded to one example, paid for or marked, never for free."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.schema import (
    ClippingGroup,
    ClippingSettings,
    ClippingWatchSettings,
    MechanismSettings,
    PrivacySettings,
    SettingError,
    UserError,
)
from training.losses import cross_entropy as label_loss
from training.privacy.accounting import epsilon_of
from training.privacy.clip_methods import (
    AdaptiveClipping,
    AutomaticClipping,
    ClipMethod,
    FlatClipping,
    GlobalAdaptClipping,
    GroupClipping,
    PerLayerClipping,
)
from training.privacy.clip_watch import ClipWatch
from training.privacy.clipping import clipped_gradient_sum
from training.privacy.events import poisson_gaussian_event
from training.privacy.group_releases import GroupReleases
from training.privacy.keras_api.datasets import private_dataset
from training.privacy.mechanisms import GaussianMechanism, build_mechanism
from training.privacy.plan import PrivacyPlan
from training.privacy.sampling import PoissonSampling, ShuffledSampling
from training.randomness import Randomness
from training.steps import PrivateStep

SEEDS = Randomness.from_seed(0)
BARE, PAID = ClipWatch("ward", 3), ClipWatch("ward", 3, share=0.1)
METHODS: dict[str, ClipMethod] = {
    "flat": FlatClipping(0.5),
    "per_layer": PerLayerClipping(0.5),
    "groups": GroupClipping(0.5, (ClippingGroup("*kernel", 0.3), ClippingGroup("*"))),
    "automatic": AutomaticClipping(0.5),
    "adaptive": AdaptiveClipping(0.5),
    "global_adapt": GlobalAdaptClipping(0.5, 0.8),
}


def plan_with(watch: ClipWatch | None, method: ClipMethod = METHODS["flat"]) -> PrivacyPlan:
    return PrivacyPlan(
        PoissonSampling(1_000, 30),
        method,
        GaussianMechanism(0.9),
        steps=50,
        delta=1e-4,
        watch=watch,
    )


def make_model() -> keras.Model:
    keras.utils.set_random_seed(2)
    dense = keras.layers.Dense
    return keras.Sequential([keras.Input((5,)), dense(4, activation="tanh"), dense(3)])


def make_batch(rows: int = 12, seed: int = 1) -> dict[str, Any]:
    generator = np.random.default_rng(seed)
    inputs = generator.normal(size=(rows, 5)) * generator.choice([0.05, 0.5, 3.0], (rows, 1))
    return {
        "inputs": tf.constant(inputs, tf.float32),
        "labels": tf.constant(generator.integers(0, 3, rows), tf.int32),
        "groups": {"ward": tf.constant(generator.integers(0, 3, rows), tf.int32)},
        "mask": tf.constant(np.arange(rows) < rows - 2),
    }


def make_step(plan: PrivacyPlan, watch: ClipWatch | None = None, **further: Any) -> Any:
    model = make_model()
    step = PrivateStep(
        model,
        label_loss(["a", "b", "c"]),
        keras.optimizers.SGD(0.1),
        tf.distribute.get_strategy(),
        plan=plan,
        watch=watch,
        **{"accumulates": False, **further},
    )
    return model, step


@pytest.mark.parametrize("watch", [BARE, PAID], ids=["bare", "paid"])
def test_counts_are_the_histogram_by_group(watch):
    generator = np.random.default_rng(0)
    relative = np.exp(generator.normal(0, 3, 500)).astype("float32")
    relative[:4] = [1.0, np.nextafter(np.float32(1), np.float32(2)), 0.0, 1e30]
    groups, used = generator.integers(0, 3, 500), generator.random(500) < 0.8
    used[:4] = True
    found = watch.counts(
        tf.constant(groups, tf.int32), tf.constant(relative), tf.constant(used)
    ).numpy()
    assert found.shape == watch.shape == (3, len(watch.edges) - 1)
    middle = found.shape[1] // 2
    assert watch.edges[middle] == 1.0
    for group in range(3):
        of_group = relative[used & (groups == group)]
        assert found[group].sum() == len(of_group)
        assert found[group, middle:].sum() == (of_group > 1).sum()
        # Every other bin is closed above as well.
        expected = [
            ((of_group > low) & (of_group <= high)).sum()
            for low, high in pairwise(watch.edges.astype("float32"))
        ]
        assert found[group, 1:-1].tolist() == expected[1:-1]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    row=st.integers(0, 29),
    scale=st.sampled_from([0.0, 1e-30, 1.0, 1e30, np.inf, np.nan]),
)
def test_one_example_moves_the_counts_by_no_more_than_one(seed, row, scale):
    generator = np.random.default_rng(seed)
    relative = np.exp(generator.normal(0, 5, 30)).astype("float32")
    with np.errstate(invalid="ignore", over="ignore"):
        relative[row] *= np.float32(scale)
    groups = generator.integers(-1, 5, 30)  # groups that there are not, too
    used = generator.random(30) < 0.9
    used[row] = True
    without = used & (np.arange(30) != row)

    def counts(used: np.ndarray) -> np.ndarray:
        return PAID.counts(
            tf.constant(groups, tf.int32), tf.constant(relative), tf.constant(used)
        ).numpy()

    moved = counts(used) - counts(without)
    known = 0 <= groups[row] < 3 and not np.isnan(relative[row])
    assert np.linalg.norm(moved) == (1.0 if known else 0.0)


@pytest.mark.parametrize("name", METHODS)
def test_sum_and_counts_together_cost_what_the_ledger_pays(name):
    method = METHODS[name]
    plan, without = plan_with(PAID, method), plan_with(None, method)
    assert plan.epsilon(50) == without.epsilon(50)  # the sum's share of the noise grew instead
    z, of_counts = plan.noise_multiplier, PAID.count_stddev(plan.noise_multiplier)
    left = PAID.sum_noise_multiplier(z)
    assert (left**-2 + of_counts**-2) ** -0.5 == pytest.approx(z)
    assert plan.noise_stddev > without.noise_stddev
    # What the query says of itself, count of an adapting method included, is what is left.
    query = plan.query()
    tensors = 1 + int(method.adapts)
    draws = plan.draws(0, SEEDS, tensors)
    seeds, coefficients = tf.constant(draws.seeds), tf.constant(draws.coefficients)
    if method.adapts:
        state = query.seeded_global_state(seeds, coefficients, 0.5)
        _, _, event = query.get_noised_result([tf.zeros(2), tf.constant(0.0)], state)
        noises = [float(each.noise_multiplier) for each in event.events]
    else:
        state = query.seeded_global_state(seeds, coefficients)
        _, _, event = query.get_noised_result([tf.zeros(2)], state)
        noises = [float(event.noise_multiplier)]
    together = (sum(noise**-2 for noise in noises) + of_counts**-2) ** -0.5
    assert together == pytest.approx(0.9, rel=1e-5)
    paid = epsilon_of(poisson_gaussian_event(0.03, together, 50), 1e-4)
    assert plan.epsilon(50) == pytest.approx(paid, rel=1e-3)


def test_released_counts_are_the_true_ones_and_their_planned_noise():
    plan = plan_with(PAID)
    model, step = make_step(plan, accumulates=True)
    start = model.get_weights()
    batches = [make_batch(12, seed) for seed in range(3)]
    true = np.zeros(PAID.shape)
    step.begin_epoch()
    for number in range(40):
        model.set_weights(start)
        for batch in batches[:2]:
            step.add(batch)
        step.finish(batches[2], step.draws(number, SEEDS), accumulated=True)
    for batch in batches:
        found = clipped_gradient_sum(model_at(start), label_loss(["a", "b", "c"]), batch, 0.5)
        true += 40 * PAID.counts(batch["groups"]["ward"], found.relative_norms, found.used).numpy()
    counted = step.watched()
    noise = counted.epoch - true
    expected = 40**0.5 * 0.9 / 0.1**0.5
    assert counted.epoch_stddev == pytest.approx(expected, rel=1e-5)
    assert counted.is_covered
    # 48 draws: the standard error of the deviation is a tenth of it.
    assert noise.std() == pytest.approx(expected, rel=0.4)
    assert abs(noise.mean()) < 4 * expected / 48**0.5
    assert np.abs(noise).min() > 1e-3  # every cell has some, empty ones too
    step.begin_epoch()
    later = step.watched()
    assert not later.epoch.any()
    assert later.epoch_stddev == 0
    np.testing.assert_array_equal(later.run, counted.run)


def model_at(weights: list[np.ndarray]) -> keras.Model:
    model = make_model()
    model.set_weights(weights)
    return model


def test_bare_counts_change_nothing_of_training_and_stay_out_of_checkpoints():
    weights = []
    for watch in (None, BARE):
        model, step = make_step(plan_with(None), watch)
        for number in range(3):
            step.finish(make_batch(12, number), step.draws(number, SEEDS), accumulated=False)
        weights.append(model.get_weights())
        assert step.state == []
    for one, other in zip(*weights, strict=True):
        np.testing.assert_array_equal(one, other)
    counted = step.watched()
    assert not counted.is_covered
    assert counted.epoch_stddev == 0
    assert counted.run.sum() == 30  # ten real rows of each step


def test_step_compiled_with_xla_counts_the_same():
    found = []
    for compiled in (False, True):
        _, step = make_step(plan_with(None), BARE, jit_compile=compiled)
        step.finish(make_batch(), step.draws(0, SEEDS), accumulated=False)
        found.append(step.watched().run)
    np.testing.assert_array_equal(*found)
    assert found[0].sum() == 10


def test_released_counts_take_part_in_checkpoints():
    _, step = make_step(plan_with(PAID, METHODS["adaptive"]))
    assert [tuple(v.shape) for v in step.state] == [(), (3, 16), (3, 16), (), ()]


def test_noise_on_weights_shares_no_stream_with_noise_on_counts():
    """And what adapts goes on as if nobody watched, but for the share of the noise."""
    plan = plan_with(PAID, AdaptiveClipping(0.5, count_share=0.1))
    _, step = make_step(plan)
    assert step.draws(0, SEEDS).seeds.shape == (1, 4 + 1 + 1, 2)
    assert len(np.unique(step.draws(0, SEEDS).seeds[0], axis=0)) == 6
    before = step.released()["clipping_norm"]
    step.finish(make_batch(), step.draws(0, SEEDS), accumulated=False)
    assert step.released()["clipping_norm"] != before


def test_plan_with_a_watch_stands_in_ledger_and_statement():
    plan = plan_with(PAID)
    again = PrivacyPlan.from_dict(json.loads(json.dumps(plan.to_dict())))
    assert again == plan
    assert plan.fingerprint == again.fingerprint != plan_with(None).fingerprint
    assert "watch" not in plan_with(None).to_dict()
    said = plan.statement(9, reproducible=False)
    assert "at 0.1 of the budget, the number of its examples by ward and length of" in said
    assert "(48 counts, Gaussian noise of standard deviation 2.846 on each)" in said


def test_records_count_for_the_group_of_their_first_row():
    plan = PrivacyPlan(
        PoissonSampling(100, 6),
        FlatClipping(0.5),
        GaussianMechanism(0.9),
        steps=5,
        delta=1e-3,
        rows_per_record=2,
        unit="user",
    )
    _, step = make_step(plan, BARE)
    batch = make_batch()
    step.finish(batch, step.draws(0, SEEDS), accumulated=False)
    first = batch["groups"]["ward"].numpy()[::2][:5]  # the last record is padding
    assert step.watched().run.sum(axis=1).tolist() == np.bincount(first, minlength=3).tolist()


def test_recipe_settings_become_what_is_watched():
    groups = {"ward": ("a", "b", "c")}
    assert ClipWatch.of(ClippingWatchSettings(), groups) is None
    marked = ClipWatch.of(ClippingWatchSettings("marked", "ward"), groups)
    assert marked == BARE
    released = ClipWatch.of(ClippingWatchSettings("released", "ward", 0.1), groups)
    assert released == PAID
    for watch, part in ((marked, None), (released, released)):
        settings = PrivacySettings(enabled=True, noise_multiplier=1.0)
        plan = PrivacyPlan.from_settings(
            settings, num_examples=1000, batch_size=10, steps=9, watch=watch
        )
        assert plan.watch == part
    with pytest.raises(SettingError, match=r"privacy\.clipping\.watch\.attribute: .*\['ward'\]"):
        ClipWatch.of(ClippingWatchSettings("marked", "sex"), groups)


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"mode": "marked"}, "privacy.clipping.watch.attribute"),
        ({"attribute": "sex"}, "privacy.clipping.watch.attribute"),
        ({"share": 0.0}, "privacy.clipping.watch.share"),
        ({"share": 0.6}, "privacy.clipping.watch.share"),
    ],
)
def test_impossible_settings_name_themselves(values, key):
    with pytest.raises(SettingError) as caught:
        ClippingSettings(watch=ClippingWatchSettings(**values))
    assert str(caught.value).startswith(key)


def test_release_with_noise_that_steps_share_is_refused():
    sampling = ShuffledSampling(1_000, 30)
    mechanism = build_mechanism(MechanismSettings("tree"), 1.0, sampling, 50)
    with pytest.raises(SettingError, match=r"privacy\.clipping\.watch\.mode: expected marked"):
        PrivacyPlan(sampling, FlatClipping(1.0), mechanism, steps=50, delta=1e-4, watch=PAID)


def test_bare_counts_are_no_part_of_a_plan():
    with pytest.raises(SettingError, match=r"privacy\.clipping\.watch\.mode"):
        plan_with(BARE)


def test_examples_whose_group_is_not_known_are_refused():
    with pytest.raises(UserError, match="by ward, and who belongs to which group"):
        private_dataset(plan_with(PAID), np.zeros((1_000, 5)), np.zeros(1_000))
    tables = replace(plan_with(None), group_releases=GroupReleases("counts", 9.0, 0, 0))
    with pytest.raises(UserError, match="tables of groups, and who belongs to which group"):
        private_dataset(tables, np.zeros((1_000, 5)), np.zeros(1_000))
