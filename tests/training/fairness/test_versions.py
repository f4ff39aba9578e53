"""Counterfactual augmentation: a record stays a record, and answers stop following the terms."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import data
from configs.schema import (
    BertSettings,
    DataSettings,
    FairnessSettings,
    ModelSettings,
    OptimizerSettings,
    PrivacySettings,
    Recipe,
    SettingError,
    SwapSettings,
    TableSettings,
    TrainingSettings,
    UserError,
)
from data import Swaps, naming_versions
from tests.models.conftest import tiny_bert  # noqa: F401 (a fixture)
from tests.training.privacy.naive import cross_entropy
from training.batching import PADDING, Batching
from training.fairness import AllVersions, RandomVersions
from training.privacy.clipping import clipped_gradient_sum
from training.privacy.keras_api.datasets import private_dataset
from training.privacy.ledger import Ledger
from training.privacy.plan import PrivacyPlan
from training.privacy.sampling import PoissonSampler
from training.randomness import Randomness
from training.run_directory import RunDirectory
from training.session import Session, open_session
from training.stream_names import randomness_context

ROOT = Randomness.from_seed(0)
EXAMPLES, VERSIONS, BOUND = 60, 3, 0.4
TABLE = np.arange(EXAMPLES * VERSIONS).reshape(VERSIONS, EXAMPLES).T  # of example i: i, i + n, ...
SAMPLER = PoissonSampler(EXAMPLES, 0.2, ROOT)


def test_random_versions_are_the_planned_examples_each_as_any_version():
    sampler, seen = RandomVersions(SAMPLER, TABLE, ROOT), np.zeros((EXAMPLES, VERSIONS))
    together = np.zeros((VERSIONS, VERSIONS))
    for step in range(3_000):
        rows = sampler.draw(step)
        assert np.array_equal(rows % EXAMPLES, SAMPLER.draw(step))
        np.add.at(seen, (rows % EXAMPLES, rows // EXAMPLES), 1)
        if len(rows) > 1:
            together[rows[0] // EXAMPLES, rows[1] // EXAMPLES] += 1
    share = seen / seen.sum(axis=1, keepdims=True)
    # 600 draws an example: standard error 0.019.
    assert np.abs(share - 1 / 3).max() < 5 * 0.019
    assert np.abs(together / together.sum() - 1 / 9).max() < 5 * 0.006  # independent in a batch
    assert np.array_equal(sampler.draw(7), RandomVersions(SAMPLER, TABLE, ROOT).draw(7))


@pytest.mark.parametrize("replicas", [1, 2])
def test_all_versions_of_an_example_are_one_record_on_one_replica(replicas):
    batching = Batching(AllVersions(SAMPLER, TABLE), 8 * VERSIONS, replicas, VERSIONS)
    plain = Batching(SAMPLER, 8, replicas)
    assert batching.replica_size == VERSIONS * plain.replica_size
    for step in range(20):
        assert batching.count(step) == plain.count(step)
        pairs = zip(
            batching.shares(step, step + 1, range(replicas)),
            plain.shares(step, step + 1, range(replicas)),
            strict=True,
        )
        for rows, share in pairs:
            assert rows.shape == (batching.replica_size,)
            records = rows.reshape(-1, VERSIONS)
            assert np.array_equal(records[share >= 0], TABLE[share[share >= 0]])
            assert (records[share < 0] == PADDING).all()


@pytest.mark.parametrize("mode", ["random", "together"])
def test_one_example_with_all_its_versions_moves_the_sum_by_no_more_than_the_bound(mode):
    keras.utils.set_random_seed(2)
    dense = keras.layers.Dense
    model = keras.Sequential([keras.Input((4,)), dense(5, activation="tanh"), dense(3)])
    generator = np.random.default_rng(1)
    features = generator.normal(size=(EXAMPLES * VERSIONS, 4)).astype("float32") * 5
    labels = np.tile(np.arange(EXAMPLES) % 3, VERSIONS)
    together = mode == "together"
    sampler = AllVersions(SAMPLER, TABLE) if together else RandomVersions(SAMPLER, TABLE, ROOT)
    rows_per_record = VERSIONS if together else 1
    batching = Batching(sampler, 24 * rows_per_record, rows_per_record=rows_per_record)
    (rows,) = batching.shares(3, 4, range(1))

    def total(mask: np.ndarray) -> np.ndarray:
        batch = {"inputs": features[rows], "labels": labels[rows], "mask": mask}
        batch = {key: tf.constant(value) for key, value in batch.items()}
        found = clipped_gradient_sum(
            model, cross_entropy, batch, BOUND, rows_per_record=rows_per_record
        )
        return np.concatenate([g.numpy().ravel() for g in found.gradients])

    whole, moved = total(rows >= 0), []
    for example in np.unique(rows[rows >= 0] % EXAMPLES):
        without = total((rows >= 0) & (rows % EXAMPLES != example))
        moved.append(np.linalg.norm(whole - without))
    assert max(moved) <= BOUND * (1 + 1e-5)
    assert max(moved) > 0.99 * BOUND


def test_padding_rows_of_users_have_no_version():
    class Padded:
        def draw(self, step: int) -> np.ndarray:
            return np.array([4, PADDING, 5, 6, PADDING, PADDING])

    rows = RandomVersions(Padded(), TABLE, ROOT).draw(0)
    assert (rows == PADDING).tolist() == [False, True, False, False, True, True]
    assert (rows[rows >= 0] % EXAMPLES).tolist() == [4, 5, 6]


def test_versions_together_cost_the_same_epsilon_and_protect_one_example():
    settings = PrivacySettings(enabled=True, noise_multiplier=1.1)
    size = {"num_examples": 1_000, "batch_size": 50, "steps": 20}
    plan = PrivacyPlan.from_settings(settings, **size, versions=3)
    alone = PrivacyPlan.from_settings(settings, **size)
    assert plan.rows_per_record == 3
    assert (plan.epsilon(20), plan.noise_stddev) == (alone.epsilon(20), alone.noise_stddev)
    assert plan.fingerprint != alone.fingerprint
    again = PrivacyPlan.from_dict(json.loads(json.dumps(plan.to_dict())))
    assert again == plan
    said = plan.statement(20, reproducible=False)
    assert "adding or removing one training example." in said
    assert "each example bounded together with all of its 3 versions" in said
    people = replace(plan, unit="user").statement(20, reproducible=False)
    assert "one user with all of their training examples" in people
    assert "versions" not in people
    with pytest.raises(UserError, match="versions of an example together, and which"):
        private_dataset(plan, np.zeros((1_000, 2)), np.zeros(1_000))


WORDS = [["feline", "canine"], ["cat", "dog"]]


@pytest.fixture(scope="module")
def recipe(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Recipe:  # noqa: F811
    """Texts whose label follows the animal more than the verb that decides it elsewhere."""
    rng = np.random.default_rng(0)
    rows = ["text,label,ward"]
    for _ in range(300):
        yes = rng.random() < 0.5
        animal = "dog" if (rng.random() < 0.9) == yes else "cat"
        verb = "ran" if (rng.random() < 0.8) == yes else "sat"
        end = rng.choice(["on the mat", "under a mat", "", "on a mat !"])
        rows.append(f"the {animal} {verb} {end},{int(yes)},{rng.choice(['a', 'b'])}")
    path = tmp_path_factory.mktemp("texts") / "texts.csv"
    path.write_text("\n".join(rows), encoding="utf-8")
    bert = BertSettings(
        weights=str(tiny_bert), trainable="head", pooling="mean", sequence_length=12
    )
    return Recipe(
        data=DataSettings(
            source="csv", table=TableSettings(train=str(path), text="text", groups=["ward"])
        ),
        model=ModelSettings(name="bert", bert=bert),
        training=TrainingSettings(
            steps=60,
            batch_size=40,
            physical_batch_size=32,
            optimizer=OptimizerSettings(learning_rate=0.05),
            seed=1,
        ),
    )


def swapping(mode: str) -> FairnessSettings:
    return FairnessSettings(swaps=SwapSettings({"animals": WORDS}, mode))


def shift_after(session: Session, root: Path, ledger: Ledger | None = None) -> float:
    """Mean change of a score when the animal is another, after training."""
    session.loop(RunDirectory.at(str(root)), [], ledger, verbose=0).run()
    model, preprocess = session.model.built.model, session.model.built.preprocess
    pairs = [f"the {{}} {verb} {end}" for verb in ("ran", "sat") for end in ("on a mat", "")]
    scores = []
    for animal in ("cat", "dog"):
        raw = tf.constant([pair.format(animal) for pair in pairs])
        scores.append(tf.nn.softmax(model(preprocess(raw), training=False))[:, 1].numpy())
    return float(np.abs(scores[0] - scores[1]).mean())


@pytest.fixture(scope="module")
def followed(recipe, tmp_path_factory) -> float:
    return shift_after(open_session(recipe), tmp_path_factory.mktemp("plain"))


@pytest.mark.parametrize("mode", ["random", pytest.param("together", marks=pytest.mark.slow)])
def test_model_that_sees_both_versions_stops_following_the_terms(recipe, followed, tmp_path, mode):
    assert followed > 0.2
    session = open_session(replace(recipe, fairness=swapping(mode)))
    assert shift_after(session, tmp_path) < followed / 4


def test_frozen_features_are_those_of_each_version(recipe):
    session = open_session(replace(recipe, fairness=swapping("random")))
    assert session.model.prefix is not None
    examples = len(session.dataset.train)
    assert session.versions.shape == (examples, 2)
    assert len(session.train) == 2 * examples  # every text has an animal
    texts = [bytes(t).decode() for t in session.train.split.read(session.versions[:9, 1]).raw]
    first = [bytes(t).decode() for t in session.dataset.train.read(np.arange(9)).raw]
    swap = {"cat": "dog", "dog": "cat"}
    assert texts == [" ".join(swap.get(w, w) for w in text.split(" ")) for text in first]
    preprocess, prefix = session.model.built.preprocess, session.model.prefix
    expected = prefix(preprocess(tf.constant(texts)), training=False)
    for name, values in session.train.inputs.items():
        found = values[session.versions[:9, 1]]
        np.testing.assert_allclose(found, expected[name], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["random", "together"])
def test_private_session_pays_for_examples_not_for_versions(recipe, tmp_path, mode):
    privacy = PrivacySettings(enabled=True, noise_multiplier=0.7, clipping_norm=0.5)
    training = replace(recipe.training, steps=4)
    session = open_session(
        replace(recipe, privacy=privacy, training=training, fairness=swapping(mode))
    )
    examples = len(session.dataset.train)
    plain = PrivacyPlan.from_settings(privacy, num_examples=examples, batch_size=40, steps=4)
    assert session.plan.num_examples == examples
    assert session.plan.rows_per_record == (2 if mode == "together" else 1)
    ledger = Ledger(tmp_path / "ledger.jsonl", session.plan)
    loop = session.loop(RunDirectory.at(str(tmp_path)), [], ledger, verbose=0)
    assert loop.run() == 4
    assert ledger.epsilon == plain.epsilon(4)


def test_other_lists_under_the_same_seed_share_no_noise(recipe, tmp_path):
    private = replace(recipe, privacy=PrivacySettings(enabled=True, noise_multiplier=0.7))
    path, contexts = tmp_path / "words.csv", set()
    for words in ("cat,dog", "cat,mat"):
        path.write_text(f"feline,other\n{words}\n")
        swaps = Swaps.read("fairness.swaps.word_lists", {"animals": str(path)})
        dataset = naming_versions(data.load(recipe.data), swaps)
        contexts.add(randomness_context(private, dataset, ""))
    assert len(contexts) == 2


def test_evaluation_in_batches_of_another_size_shares_no_noise(recipe):
    private = replace(recipe, privacy=PrivacySettings(enabled=True, noise_multiplier=0.7))
    dataset = data.load(recipe.data)

    def context(**evaluation):
        settings = replace(private.evaluation, **evaluation)
        return randomness_context(replace(private, evaluation=settings), dataset, "")

    # Rounded otherwise, what is measured may stop training at another step.
    assert context(batch_size=32) != context(batch_size=64)
    assert context(bootstrap_resamples=10) == context(bootstrap_resamples=20)


def test_step_compiled_by_xla_shares_no_noise_and_one_spread_over_devices_does(recipe):
    private = replace(recipe, privacy=PrivacySettings(enabled=True, noise_multiplier=0.7))
    dataset = data.load(recipe.data)

    def context(**training):
        settings = replace(private.training, **training)
        return randomness_context(replace(private, training=settings), dataset, "")

    assert context(jit_compile=True) != context(jit_compile=False)
    assert context(strategy="mirrored") == context(strategy="one_device")


def test_impossible_lists_name_themselves():
    with pytest.raises(SettingError, match=r"fairness\.swaps\.word_lists\.a: expected the path"):
        SwapSettings({"a": [["one"], ["two"]]})
    images = Recipe(
        data=DataSettings(source="digits", limit=300),
        model=ModelSettings(name="mlp"),
        training=TrainingSettings(steps=3, batch_size=20),
        fairness=swapping("random"),
    )
    with pytest.raises(SettingError, match=r"fairness\.swaps\.word_lists: expected nothing"):
        open_session(images)
