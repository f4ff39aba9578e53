"""Recipes that protect users: what a session feeds its step, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import data
from configs.schema import (
    BertSettings,
    DataSettings,
    DecisionSettings,
    FairnessSettings,
    MechanismSettings,
    MlpSettings,
    ModelSettings,
    OptimizerSettings,
    PrivacySettings,
    Recipe,
    SamplingSettings,
    SettingError,
    SwapSettings,
    TableSettings,
    ThresholdSettings,
    TrainingSettings,
    UserError,
)
from data.contracts import PADDING
from tests.models.conftest import WORDS, tiny_bert  # noqa: F401
from tests.training.conftest import assert_identical, weights_of
from tests.training.privacy.naive import clipped_sum, per_example_gradients, relative_error
from training.drawing import physical_size
from training.losses import recipe_loss
from training.privacy.ledger import Ledger
from training.run_directory import RunDirectory
from training.session import Model, Session, open_session
from training.unit_of_privacy import records_of, users_of

PEOPLE, K = 30, 3
PRIVATE = PrivacySettings(
    enabled=True, noise_multiplier=0.8, clipping_norm=0.2, unit="user", examples_per_user=K
)
MLP = ModelSettings(name="mlp", mlp=MlpSettings(hidden_units=[6]))
SGD = OptimizerSettings(name="SGD", learning_rate=1.0)


def write_people(path: Path, people: range = range(PEOPLE)) -> Path:
    """A row for every example; person p has 1 + p mod 6 of them, in no order."""
    generator = np.random.default_rng(len(people))
    owners = generator.permutation(np.repeat(people, [1 + person % 6 for person in people]))
    lines = ["a,b,notes,who,ward,label"]
    for owner in owners:
        a, b = generator.normal(size=2)
        words = " ".join(generator.choice(WORDS, 6))
        ward = ("north", "south")[owner % 2]
        lines.append(f"{a:.5f},{b:.5f},{words},p{owner:03},{ward},{'yes' if a > 0 else 'no'}")
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def by_user(
    recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Recipe]:
    """Makes a recipe over a table of people with several examples each."""
    # The table's path names the random streams, and that of the folder is another in every run.
    monkeypatch.chdir(tmp_path)
    train = write_people(Path("people.csv"))

    def make(privacy: PrivacySettings = PRIVATE, **changes: Any) -> Recipe:
        table = {"features": ["a", "b"], **changes.pop("table", {})}
        settings = DataSettings(
            source="csv",
            table=TableSettings(train=str(train), groups=["ward"], **table),
            user=changes.pop("user", "who"),
            validation_fraction=0.2,
        )
        model = changes.pop("model", MLP)
        training = {"batch_size": 8, "steps": 3, "optimizer": SGD, **changes}
        return recipe(privacy, data=settings, model=model, **training)

    return make


def loop_of(session: Session, root: Path) -> Any:
    run = RunDirectory(root)
    root.mkdir()
    return session.loop(run, [], Ledger(run.ledger, session.plan), verbose=0)


def test_plan_counts_users_and_splits_keep_them_whole(by_user: Any) -> None:
    session = open_session(by_user())
    parts = [session.dataset.split(name).users for name in ("train", "validation", "test")]
    assert [len(np.unique(users)) for users in parts] == [21, 6, 3]
    assert len(np.unique(np.concatenate(parts))) == PEOPLE
    assert session.plan.num_examples == 21
    assert session.plan.delta == pytest.approx(21**-1.1)
    assert (session.plan.unit, session.plan.rows_per_record) == ("user", K)
    assert session.length.steps_per_epoch == 3


@pytest.mark.parametrize("physical", [None, 2 * K])
def test_step_moves_weights_by_the_naive_sum_over_users(
    by_user: Any, tmp_path: Path, physical: int | None
) -> None:
    silent = replace(PRIVATE, noise_multiplier=1e-5)
    # Of 21 users eight have fewer than K rows: at this rate a batch without any of them is drawn
    # with a chance of (3 / 21)^8 = 2e-7, and all 21 fit the physical batch that is not asked for.
    settings = by_user(silent, steps=1, batch_size=18, physical_batch_size=physical)
    session = open_session(settings)
    loop, train = loop_of(session, tmp_path / "run"), session.train
    model = session.model.trained
    before = weights_of(model)
    drawn = loop.batching.sampler.draw(0)
    assert len(drawn) % K == 0
    assert (drawn == PADDING).any()
    assert loop.batching.count(0) == (1 if physical is None else -(-len(drawn) // physical))
    inputs = {name: tf.constant(values) for name, values in train.inputs.items()}
    gradients = per_example_gradients(
        model,
        {"inputs": inputs, "labels": tf.constant(train.labels)},
        recipe_loss(session.recipe, session.dataset.info.label_names),
    )
    people = []
    for record in drawn.reshape(-1, K):
        rows = record[record != PADDING]
        assert len(np.unique(session.dataset.train.users[rows])) == 1
        people.append([sum(gradients[row][v] for row in rows) / K for v in range(len(before))])
    expected, norms = clipped_sum(people, np.ones(len(people), bool), PRIVATE.clipping_norm)
    assert (norms > PRIVATE.clipping_norm).any()
    loop.run()
    released = [
        (old - new) * session.plan.batch_size
        for old, new in zip(before, weights_of(model), strict=True)
    ]
    # Noise of 2e-6 a coordinate, and weights of size 1 hold a step to 6e-8.
    assert relative_error(released, expected) <= 5e-5
    assert loop.ledger.releases == 1


def test_frozen_layers_computed_once_feed_the_same_users(
    by_user: Any,
    tmp_path: Path,
    tiny_bert: Path,  # noqa: F811
) -> None:
    bert = BertSettings(weights=str(tiny_bert), trainable="head", sequence_length=10)
    model = ModelSettings(name="bert", bert=bert)
    table = {"features": [], "text": "notes"}
    session = open_session(by_user(model=model, table=table))
    assert session.model.prefix is not None
    built = session.model.built
    whole = replace(
        session,
        model=Model(built, None, built.model),
        train=data.prepare(session.dataset.train, built.preprocess),
    )
    start, found = weights_of(built.model), []
    for name, either in (("cached", session), ("computed", whole)):
        built.model.set_weights(start)
        loop_of(either, tmp_path / name).run()
        found.append(weights_of(built.model))
    for cached, computed in zip(*found, strict=True):
        np.testing.assert_allclose(cached, computed, atol=1e-5)
    assert any(not np.array_equal(a, b) for a, b in zip(found[0], start, strict=True))


@pytest.mark.slow
def test_run_that_is_resumed_draws_the_users_it_would_have_drawn(
    by_user: Any, tmp_path: Path
) -> None:
    whole = loop_of(open_session(by_user(steps=6)), tmp_path / "whole")
    whole.run()
    run = RunDirectory(tmp_path / "cut")
    run.root.mkdir()

    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            raise KeyboardInterrupt

    for callbacks in ([Stop()], []):
        session = open_session(by_user(steps=6, checkpoint_every=1))
        ledger = Ledger(run.ledger, session.plan)
        loop = session.loop(run, callbacks, ledger, verbose=0)
        if callbacks:
            with pytest.raises(KeyboardInterrupt):
                loop.run()
        else:
            loop.run()
    assert ledger.releases == 6
    assert_identical(weights_of(loop.model), weights_of(whole.model))


@pytest.mark.parametrize(
    ("sampling", "mechanism"),
    [
        (SamplingSettings("truncated_poisson", max_batch=12), MechanismSettings()),
        (SamplingSettings("fixed_size"), MechanismSettings()),
        (SamplingSettings("balls_in_bins"), MechanismSettings()),
        (SamplingSettings("shuffled"), MechanismSettings("tree")),
        (SamplingSettings("cyclic", bands=2), MechanismSettings()),
    ],
    ids=lambda part: part.method,
)
def test_every_way_of_sampling_draws_users(
    by_user: Any, sampling: SamplingSettings, mechanism: MechanismSettings
) -> None:
    session = open_session(by_user(replace(PRIVATE, sampling=sampling, mechanism=mechanism)))
    users = session.dataset.train.users
    sampler = session.plan.sampler(session.randomness, users_of(session.recipe, session.dataset))
    for step in range(6):
        owners = [users[r[r != PADDING]] for r in sampler.draw(step).reshape(-1, K)]
        assert all(len(set(of.tolist())) == 1 for of in owners)
        assert len({int(of[0]) for of in owners}) == len(owners)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no column named": ({"user": None}, r"data\.user: expected the column or feature that names"),
    "no such column": ({"user": "patient"}, r"data\.user: expected a column of .*'patient'"),
    "batch larger than the users": (
        {"batch_size": 22},
        r"training\.batch_size: expected at most the 21 training users\. Received: 22",
    ),
    "part of a user": (
        {"physical_batch_size": 7},
        r"training\.physical_batch_size: expected a multiple of privacy\.examples_per_user \(3\)",
    ),
    "delta for examples": (
        {"privacy": replace(PRIVATE, delta=1 / 21)},
        r"privacy\.delta: expected less than 1/N = 0\.0476",
    ),
    "two examples a group": (
        {"privacy": replace(PRIVATE, sampling=SamplingSettings("cyclic", bands=3))},
        r"privacy\.sampling\.bands: expected at most 2",
    ),
    "batch larger than the users, shuffled": (
        {"privacy": replace(PRIVATE, sampling=SamplingSettings("shuffled")), "batch_size": 22},
        r"at most the 21 training users",
    ),
    "epsilon out of reach": (
        {
            "privacy": replace(PRIVATE, epsilon=1e-4, calibrate="steps", noise_multiplier=0.5),
            "steps": None,
        },
        "keeps for at least one step of at least one user",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_recipe_that_cannot_protect_users_is_refused(by_user: Any, name: str) -> None:
    changes, message = REFUSED[name]
    with pytest.raises(UserError, match=message):
        open_session(by_user(**changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"examples_per_user": None}, r"a whole number >= 1, because privacy\.unit is user"),
        ({"examples_per_user": 0}, r"privacy\.examples_per_user: expected a whole number >= 1"),
        ({"unit": "example"}, r"privacy\.examples_per_user: expected null, or privacy\.unit: user"),
    ],
)
def test_bound_on_examples_belongs_to_users(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        replace(PRIVATE, **changes)


COUNTED = {"public_counts": {w: {"no": 5, "yes": 5} for w in ("north", "south")}}
ANIMALS = [["cat", "dog"], ["cats", "dogs"]]
OF_ONE_GROUP = {
    "balanced groups": (
        {"fairness": FairnessSettings(attribute="ward", balanced_sampling="group", **COUNTED)},
        r"fairness\.balanced_sampling: expected null with privacy\.unit: user",
    ),
    "versions beside rows": (
        {"fairness": FairnessSettings(swaps=SwapSettings({"a": ANIMALS}, "together"))},
        r"fairness\.swaps\.mode: expected random with privacy\.unit: user",
    ),
}


@pytest.mark.parametrize("name", OF_ONE_GROUP)
def test_what_takes_a_user_for_an_example_is_refused(by_user: Any, name: str) -> None:
    changes, message = OF_ONE_GROUP[name]
    with pytest.raises(SettingError, match=message):
        replace(by_user(), **changes)


def test_thresholds_that_count_examples_are_refused(by_user: Any) -> None:
    thresholds = DecisionSettings(thresholds=ThresholdSettings(attribute="ward"), epsilon=1.0)
    with pytest.raises(SettingError, match=r"decision\.thresholds\.attribute: expected null with"):
        replace(by_user(), decision=thresholds)


def test_users_on_both_sides_of_validation_are_refused(by_user: Any, tmp_path: Path) -> None:
    held_out = write_people(tmp_path / "held_out.csv", range(PEOPLE - 3, PEOPLE + 5))
    with pytest.raises(UserError, match=r"[123] users have examples in the train"):
        open_session(by_user(table={"validation": str(held_out)}))
    write_people(held_out, range(PEOPLE, PEOPLE + 5))
    assert open_session(by_user(table={"validation": str(held_out)})).plan.num_examples == 27


def test_validation_examples_without_users_are_warned_of(
    by_user: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    named = write_people(tmp_path / "named.csv", range(PEOPLE, PEOPLE + 5))
    nameless = tmp_path / "nameless.csv"
    nameless.write_text(named.read_text().replace(",who,", ",someone,"))

    def warnings(held_out: Path | None, privacy: PrivacySettings = PRIVATE) -> str:
        caplog.clear()
        asked = by_user(privacy, table={"validation": held_out and str(held_out)})
        records_of(asked, data.load(asked.data))
        return caplog.text

    assert warnings(nameless).count("data.user: the validation examples do not have 'who'") == 1
    assert "data.user" not in warnings(named) + warnings(None)
    assert "data.user" not in warnings(nameless, PrivacySettings())


def test_users_of_data_without_privacy_only_decide_the_splits(by_user: Any) -> None:
    session = open_session(by_user(PrivacySettings()))
    assert session.plan is None
    assert session.length.steps_per_epoch == 3
    assert not set(session.dataset.train.users) & set(session.dataset.validation.users)


def test_examples_can_be_protected_where_users_are_known(by_user: Any, tmp_path: Path) -> None:
    settings = replace(PRIVATE, unit="example", examples_per_user=None)
    session = open_session(by_user(settings))
    assert session.plan.num_examples == len(session.dataset.train)
    assert "people who appear in more than one example" in session.plan.statement(
        1, reproducible=False
    )
    loop_of(session, tmp_path / "run").run()


@pytest.mark.parametrize("replicas", [1, 2, 3])
@pytest.mark.parametrize("asked", [None, 2 * K, 4 * K])
def test_physical_batches_give_every_replica_whole_users(replicas: int, asked: int | None) -> None:
    settings = TrainingSettings(batch_size=8, physical_batch_size=asked)
    sizes = {"private": True, "examples": 100, "replicas": replicas}
    size = physical_size(settings, **sizes, rows=K)
    assert size % (replicas * K) == 0
    assert size >= (asked or 8 * K)
    assert physical_size(replace(settings, physical_batch_size=None), **sizes, rows=K) == (
        K * physical_size(replace(settings, physical_batch_size=None), **sizes)
    )
    full = physical_size(settings, **sizes, capacity=12, rows=K)
    assert asked is not None or full == 12 * K
