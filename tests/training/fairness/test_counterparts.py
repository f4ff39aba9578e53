"""Images and their counterparts: one record each, and answers stop following the background."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from configs.schema import (
    DataSettings,
    FairnessSettings,
    MlpSettings,
    ModelSettings,
    OptimizerSettings,
    PrivacySettings,
    Recipe,
    SettingError,
    SwapSettings,
    TrainingSettings,
    UserError,
)
from tests.data.paired_images import SIZE, settings_of, write_images
from training.drawing import batching_of
from training.fairness import RandomVersions
from training.outcome import refuse_other_data, write_dataset_card
from training.privacy.clipping import clipped_gradient_sum
from training.privacy.ledger import Ledger
from training.privacy.plan import PrivacyPlan
from training.privacy.sampling import PoissonSampler
from training.randomness import Randomness
from training.run_directory import RunDirectory
from training.session import Session, open_session
from training.stream_names import randomness_context

EXAMPLES = 300
PRIVATE = PrivacySettings(enabled=True, noise_multiplier=0.7, clipping_norm=1.0)


@pytest.fixture(scope="module")
def root(in_own_folder: Path) -> Path:
    return write_images(Path("images"), EXAMPLES)


def recipe_of(root: Path, private: bool = False, swapped: bool = True, **swaps) -> Recipe:
    pairs = str(root / "pairs.csv") if swapped else None
    return Recipe(
        data=settings_of(root),
        model=ModelSettings(name="mlp", mlp=MlpSettings(hidden_units=[8], image_size=SIZE)),
        training=TrainingSettings(
            steps=80,
            batch_size=60,
            optimizer=OptimizerSettings(learning_rate=0.02),
            seed=3,
        ),
        privacy=PRIVATE if private else PrivacySettings(),
        fairness=FairnessSettings(swaps=SwapSettings(image_pairs=pairs, **swaps)),
    )


def drawn_rows(session: Session, steps: int) -> list[np.ndarray]:
    batching = batching_of(
        session.recipe,
        session.plan,
        session.dataset,
        session.preparation,
        session.randomness,
        1,
        session.versions,
    )
    shares = [
        np.concatenate(list(batching.shares(step, step + 1, range(1)))) for step in range(steps)
    ]
    return [rows[rows >= 0] for rows in shares]


def shift_after(recipe: Recipe, root: Path, place: Path) -> tuple[float, Session]:
    """Mean change of a score when the background is the other, after training."""
    session = open_session(recipe)
    place.mkdir()
    run = RunDirectory.at(str(place))
    ledger = None if session.plan is None else Ledger(run.ledger, session.plan)
    session.loop(run, [], ledger, verbose=0).run()
    model, preprocess = session.model.built.model, tf.function(session.model.built.preprocess)
    scores = []
    for folder in ("own", "other"):
        raw = [(root / folder / f"{n}.png").read_bytes() for n in range(EXAMPLES)]
        scores.append(tf.nn.softmax(model(preprocess(tf.constant(raw)), training=False))[:, 1])
    if ledger is not None:
        examples = len(session.dataset.train)
        alone = PrivacyPlan.from_settings(PRIVATE, num_examples=examples, batch_size=60, steps=80)
        assert ledger.epsilon == alone.epsilon(80)
    return float(np.abs(scores[0] - scores[1]).mean()), session


@pytest.mark.parametrize("private", [False, True])
def test_model_that_sees_counterparts_stops_following_the_background(root, tmp_path, private):
    followed, _ = shift_after(recipe_of(root, private, swapped=False), root, tmp_path / "without")
    freed, session = shift_after(recipe_of(root, private), root, tmp_path / "with")
    assert followed > 0.4
    assert freed < followed / 2
    assert len(session.train) == 2 * len(session.dataset.train)


@pytest.mark.parametrize("mode", ["random", "together"])
def test_a_private_batch_holds_each_person_once_and_counterparts_of_nobody_else(root, mode):
    session = open_session(recipe_of(root, private=True, mode=mode))
    alone = open_session(recipe_of(root, private=True, swapped=False))
    people = len(session.dataset.train)
    assert session.plan.num_examples == people
    sampler = session.plan.sampler(session.randomness)
    content = {"own": {}, "other": {}}
    for folder, known in content.items():
        for number in range(EXAMPLES):
            known[(root / folder / f"{number}.png").read_bytes()] = number
    originals = session.dataset.train.read(np.arange(people)).raw
    person_of = [content["own"][image] for image in originals]
    versions = Counter()
    for step, rows in enumerate(drawn_rows(session, 40)):
        drawn = sampler.draw(step)
        found = session.train.split.read(rows)
        shown = [
            (folder, content[folder][image])
            for image in found.raw
            for folder in content
            if image in content[folder]
        ]
        who = [person for _, person in shown]
        versions.update(folder for folder, _ in shown)
        if mode == "random":  # one row a person: the drawn one's
            assert who == [person_of[example] for example in drawn]
            assert len(set(who)) == len(rows)
        else:  # a record of two rows, both the drawn one's
            assert who == [person_of[example] for example in drawn for _ in range(2)]
            assert Counter(who).most_common(1)[0][1] == 2
        expected = session.dataset.train.labels[np.repeat(drawn, len(rows) // len(drawn))]
        assert found.labels.tolist() == expected.tolist()
    half = sum(versions.values()) / 2
    assert abs(versions["other"] - half) < 5 * np.sqrt(half / 2)
    assert session.plan.epsilon(80) == alone.plan.epsilon(80)
    assert session.plan.noise_stddev == alone.plan.noise_stddev
    said = session.plan.statement(80, reproducible=False)
    assert (
        "counterparts are part of its example, each taken to be made from that image alone" in said
    )
    assert "counterparts" not in alone.plan.statement(80, reproducible=False)
    assert PrivacyPlan.from_dict(json.loads(json.dumps(session.plan.to_dict()))) == session.plan


@pytest.mark.parametrize("rate", [None, 1.0])
def test_taking_a_person_with_their_counterpart_away_moves_the_sum_by_no_more_than_the_bound(
    root, rate
):
    session = open_session(recipe_of(root, private=True, rate=rate))
    model, bound = session.model.built.model, session.plan.clipping_norm
    (rows,) = drawn_rows(session, 1)
    raw = session.train.split.read(rows)
    inputs = session.model.built.preprocess(tf.constant(list(raw.raw)))
    owner = rows % len(session.dataset.train)

    def total(mask: np.ndarray) -> np.ndarray:
        batch = {"inputs": inputs, "labels": tf.constant(raw.labels), "mask": tf.constant(mask)}
        # A loss so steep everywhere (cross-entropy is flat where a guess is sure and right) that
        # every gradient is cut.
        found = clipped_gradient_sum(
            model, lambda y, z: -2500.0 * tf.gather(z, y, batch_dims=1), batch, bound
        )
        return np.concatenate([g.numpy().ravel() for g in found.gradients])

    assert len(set(owner.tolist())) == len(rows)
    whole = total(np.ones(len(rows), bool))
    moved = [np.linalg.norm(whole - total(owner != person)) for person in owner[:20]]
    assert max(moved) <= bound * (1 + 1e-4)
    assert max(moved) > 0.99 * bound


@pytest.mark.parametrize("rate", [0.1, 0.7, 1.0])
def test_versions_come_at_the_rate_and_leave_the_draw_of_people_alone(rate):
    examples, versions = 50, 3
    table = np.arange(examples * versions).reshape(versions, examples).T
    root = Randomness.from_seed(0)
    people = PoissonSampler(examples, 0.2, root)
    sampler, seen = RandomVersions(people, table, root, rate), np.zeros(versions)
    for step in range(2_000):
        rows = sampler.draw(step)
        assert np.array_equal(rows % examples, people.draw(step))
        seen += np.bincount(rows // examples, minlength=versions)
    expected = np.array([1 - rate, rate / 2, rate / 2]) * seen.sum()
    # About 20,000 draws: five standard errors.
    assert (np.abs(seen - expected) <= 5 * np.sqrt(np.maximum(expected, 1e-9))).all()
    again = RandomVersions(people, table, root, rate)
    assert np.array_equal(sampler.draw(7), again.draw(7))


def test_a_changed_counterpart_is_other_data_and_shares_no_noise(tmp_path):
    root = write_images(tmp_path / "images", 60)
    recipe = recipe_of(root, private=True)
    recipe = replace(recipe, training=replace(recipe.training, batch_size=20))
    session = open_session(recipe)
    run = RunDirectory.at(str(tmp_path / "run"))
    run.root.mkdir()
    write_dataset_card(run, session.dataset)
    refuse_other_data(run, open_session(recipe).dataset)
    image = session.train.split.raw.paths[-1]
    pixels = np.array(Image.open(image))
    pixels[0, 0] ^= 1
    Image.fromarray(pixels).save(image)
    other = open_session(recipe)
    with pytest.raises(UserError, match=r"data have changed since this run began .*image pairs"):
        refuse_other_data(run, other.dataset)
    contexts = {randomness_context(recipe, one.dataset, "") for one in (session, other)}
    assert len(contexts) == 2
    assert session.randomness.root != other.randomness.root


def test_a_user_has_their_own_counterparts_at_random_and_no_two_at_once(root):
    listed = (root / "images.csv").read_text().splitlines()
    rows = [f"{row},{number % 50}" for number, row in enumerate(listed[1:])]
    (root / "users.csv").write_text("\n".join([f"{listed[0]},person", *rows]) + "\n")
    recipe = recipe_of(root)
    folder = replace(recipe.data.image_folder, train=str(root / "users.csv"))
    by_user = PrivacySettings(
        enabled=True, unit="user", examples_per_user=3, noise_multiplier=0.7, clipping_norm=1.0
    )
    recipe = replace(
        recipe,
        data=replace(recipe.data, image_folder=folder, user="person"),
        privacy=by_user,
        training=replace(recipe.training, batch_size=10),
    )
    session = open_session(recipe)
    people = session.dataset.train
    for rows in drawn_rows(session, 5):
        examples = rows % len(people)
        assert len(set(examples.tolist())) == len(examples)
        assert max(Counter(people.users[examples].tolist()).values()) <= 3
        assert session.train.split.users[rows].tolist() == people.users[examples].tolist()
    with pytest.raises(SettingError, match=r"fairness\.swaps\.mode: expected random with privacy"):
        replace(recipe, fairness=recipe_of(root, mode="together").fairness)


def test_impossible_settings_name_themselves(root):
    for rate in (0.0, 1.5):
        with pytest.raises(SettingError, match=r"fairness\.swaps\.rate: expected a probability"):
            SwapSettings(image_pairs="pairs.csv", rate=rate)
    with pytest.raises(SettingError, match=r"fairness\.swaps\.rate: expected null without"):
        SwapSettings(rate=0.5)
    with pytest.raises(SettingError, match=r"fairness\.swaps\.rate: expected null without"):
        SwapSettings(image_pairs="pairs.csv", rate=0.5, mode="together")
    texts = root / "texts.csv"
    texts.write_text("text,label\n" + "".join(f"word {n},{n % 2}\n" for n in range(40)))
    table = replace(DataSettings(source="csv").table, train=str(texts), text="text")
    recipe = replace(recipe_of(root), data=DataSettings(source="csv", table=table))
    with pytest.raises(SettingError, match=r"image_pairs: .* changes image, and the data are text"):
        open_session(recipe)
