"""`private_dataset(..., users=...)`: the same path by hand and through `fit`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from configs.schema import SettingError, UserError
from tests.training.privacy import naive
from training.privacy import (
    PrivacyPlan,
    clipped_gradient_sum,
    make_private,
    per_example_loss,
    private_dataset,
)
from training.privacy.sampling import BallsInBinsSampling
from training.privacy.users import UserRows

L = keras.layers
EXAMPLES, PEOPLE, K = 70, 20, 3
GENERATOR = np.random.default_rng(3)
X = GENERATOR.normal(size=(EXAMPLES, 5)).astype("float32")
Y = (X[:, 0] > 0).astype("int64")
USERS = np.concatenate([np.arange(PEOPLE), GENERATOR.integers(0, PEOPLE, EXAMPLES - PEOPLE)])
NAMES = np.array([f"user {user:02}" for user in USERS])
PLAN = PrivacyPlan.user_level_dp_sgd(
    num_users=PEOPLE,
    examples_per_user=K,
    batch_size=8,
    steps=6,
    clipping_norm=0.4,
    noise_multiplier=1.0,
    delta=1e-3,
)
CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def small_model() -> keras.Model:
    keras.utils.set_random_seed(1)
    x = keras.Input((5,))
    return keras.Model(x, L.Dense(2)(x))


def compiled(plan: PrivacyPlan = PLAN, **further: Any) -> Any:
    private = make_private(small_model(), plan, **further)
    private.compile(keras.optimizers.SGD(0.5), CROSS_ENTROPY, metrics=["accuracy"])
    return private


def test_elements_hold_whole_users_of_at_most_k_rows() -> None:
    ids = np.arange(EXAMPLES, dtype="float32")[:, None]
    steps = set()
    for element in private_dataset(PLAN, ids, Y, users=NAMES, physical_batch_size=12, seed=1):
        rows, mask = element["inputs"].numpy()[:, 0].astype(int), element["mask"].numpy()
        assert (rows.shape, mask.shape) == ((12,), (4, K))
        for record, real in zip(rows.reshape(-1, K), mask, strict=True):
            owners = set(USERS[record[real]])
            assert len(owners) <= 1
            assert len(set(record[real])) == real.sum()
            if owners:
                assert real.sum() == min(K, (owners.pop() == USERS).sum())
        steps.add(int(element["step"]))
    assert steps == set(range(PLAN.steps))


def test_loop_by_hand_bounds_users_without_being_told_again() -> None:
    model = small_model()
    element = next(iter(private_dataset(PLAN, X, Y, users=USERS, physical_batch_size=45, seed=2)))
    loss = per_example_loss(CROSS_ENTROPY)
    found = clipped_gradient_sum(model, loss, element, PLAN.clipping_norm)
    rows = {**element, "mask": tf.reshape(element["mask"], [-1])}
    same = clipped_gradient_sum(model, loss, rows, PLAN.clipping_norm, rows_per_record=K)
    assert found.norms.shape == (15,)
    assert found.used.numpy().tolist() == element["mask"].numpy().any(axis=1).tolist()
    for one, other in zip(found.gradients, same.gradients, strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError, match=r"gives a record 3 rows\. Received: 5"):
        clipped_gradient_sum(model, loss, element, PLAN.clipping_norm, rows_per_record=5)


@pytest.mark.parametrize("physical", [None, 9])
def test_fit_releases_the_clipped_sum_over_the_users_drawn(physical: int | None) -> None:
    private = compiled(seed=5, physical_batch_size=physical)
    before = [np.array(w) for w in private.inner.get_weights()]
    twin = small_model()
    twin.set_weights(before)
    source = private_dataset(PLAN, X, Y, users=NAMES)
    private.fit(source, epochs=1, steps_per_epoch=1, verbose=0)
    root = private._root()
    # Users are numbered as they first appear.
    drawn = PLAN.sampler(root, UserRows(USERS)).draw(0).reshape(-1, K)
    gradients = naive.per_example_gradients(twin, {"inputs": tf.constant(X), "labels": Y})
    people = [
        [sum(gradients[row][v] for row in record if row >= 0) / K for v in range(len(before))]
        for record in drawn
    ]
    sums, _ = naive.clipped_sum(people, np.ones(len(people), bool), PLAN.clipping_norm)
    draws, query = PLAN.draws(0, root, len(sums)), PLAN.query()
    state = query.seeded_global_state(tf.constant(draws.seeds), tf.constant(draws.coefficients))
    noised, _, _ = query.get_noised_result([tf.constant(s, tf.float32) for s in sums], state)
    for old, new, gradient in zip(before, private.inner.get_weights(), noised, strict=True):
        np.testing.assert_allclose(new, old - 0.5 * gradient / PLAN.batch_size, atol=1e-5)
    assert 0 <= private.history.history["accuracy"][0] <= 1


def test_what_was_spent_is_said_of_users(tmp_path: Any) -> None:
    private = compiled(ledger=tmp_path / "ledger.jsonl")
    private.fit(private_dataset(PLAN, X, Y, users=USERS.tolist()), verbose=0)
    spent = private.privacy_spent()
    same = PrivacyPlan.dp_sgd(
        num_examples=PEOPLE,
        batch_size=8,
        steps=6,
        clipping_norm=0.4,
        noise_multiplier=1.0,
        delta=1e-3,
    )
    assert spent.epsilon == same.epsilon(6)
    assert "one user with all of their training examples" in spent.statement
    assert '"num_users": 20' in (tmp_path / "ledger.jsonl").read_text()


REFUSED = {
    "plan of examples": (
        PrivacyPlan.dp_sgd(
            num_examples=EXAMPLES,
            batch_size=8,
            steps=6,
            clipping_norm=0.4,
            noise_multiplier=1.0,
            delta=1e-3,
        ),
        USERS,
        "users: expected none, because the plan protects single examples",
    ),
    "no users": (PLAN, None, r"users: expected the user of every training example.*users=\.\.\."),
    "fewer users": (PLAN, USERS % 19, "for 20 users, and the training examples are of 19"),
    "too short": (PLAN, USERS[:-1], r"users: expected the user of each of 70 examples.*\(69,\)"),
    "numbers with a gap": (PLAN, np.where(USERS, USERS, np.nan), "none missing.*float64"),
    "missing": (PLAN, [None, *NAMES[1:]], "none missing"),
    "empty": (PLAN, ["", *NAMES[1:]], "none missing"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_users_that_do_not_fit_the_plan_are_refused(name: str) -> None:
    plan, users, message = REFUSED[name]
    with pytest.raises(UserError, match=message):
        private_dataset(plan, X, Y, users=users)


def test_fit_refuses_examples_of_nobody() -> None:
    with pytest.raises(UserError, match="users: expected the user of every training example"):
        compiled().fit(X, Y, verbose=0)


def test_physical_batch_that_parts_a_user_is_refused() -> None:
    expected = r"physical_batch_size: expected a multiple of the plan's 3 examples per user"
    with pytest.raises(SettingError, match=expected):
        private_dataset(PLAN, X, Y, users=USERS, physical_batch_size=10)
    with pytest.raises(SettingError, match=expected):
        compiled(physical_batch_size=10).fit(private_dataset(PLAN, X, Y, users=USERS), verbose=0)


def test_other_users_are_other_data_where_steps_depend_on_each_other() -> None:
    plan = replace(PLAN, sampling=BallsInBinsSampling(PEOPLE, 8), steps=9)
    private = compiled(plan)
    private.fit(private_dataset(plan, X, Y, users=USERS), epochs=1, verbose=0)
    private.fit(private_dataset(plan, X, Y, users=NAMES), epochs=1, verbose=0)
    with pytest.raises(UserError, match="expected the arrays of the first fit"):
        private.fit(private_dataset(plan, X, Y, users=np.roll(USERS, 1)), verbose=0)
