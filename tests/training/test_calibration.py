"""`privacy.calibrate`: the third of noise, steps and batch size, found from the other two."""

from dataclasses import replace

import pytest

from configs.schema import PrivacySettings, Recipe, SettingError, TrainingSettings
from training.calibration import resolved
from training.length import run_length
from training.privacy.plan import PrivacyPlan

EXAMPLES = 20_000


def recipe_for(calibrate: str, epsilon: float = 1.0, **training) -> Recipe:
    privacy = PrivacySettings(
        enabled=True, epsilon=epsilon, noise_multiplier=1.0, delta=1e-6, calibrate=calibrate
    )
    return Recipe(privacy=privacy, training=TrainingSettings(**training))


def found_by(recipe: Recipe) -> Recipe:
    return resolved(recipe, EXAMPLES, lambda settings, n: run_length(settings, n).steps)


def epsilon_of_recipe(recipe: Recipe) -> float:
    steps = run_length(recipe.training, EXAMPLES).steps
    plan = PrivacyPlan.from_settings(
        recipe.privacy, num_examples=EXAMPLES, batch_size=recipe.training.batch_size, steps=steps
    )
    assert plan.noise_multiplier == 1.0
    return plan.epsilon(steps)


def test_steps_are_the_most_that_keep_epsilon():
    recipe = found_by(recipe_for("steps", batch_size=100))
    assert recipe.training.batch_size == 100
    assert epsilon_of_recipe(recipe) <= 1.0
    longer = replace(recipe.training, steps=recipe.training.steps * 1002 // 1000 + 1)
    assert epsilon_of_recipe(replace(recipe, training=longer)) > 1.0


@pytest.mark.parametrize("length", [{"steps": 300}, {"epochs": 2.0}])
def test_batch_size_is_the_largest_that_keeps_epsilon(length):
    recipe = found_by(recipe_for("batch_size", **length))
    assert epsilon_of_recipe(recipe) <= 1.0
    larger = replace(recipe.training, batch_size=recipe.training.batch_size + 1)
    assert epsilon_of_recipe(replace(recipe, training=larger)) > 1.0


def test_what_was_found_is_found_again():
    once = found_by(recipe_for("steps", batch_size=100))
    assert found_by(once) == once


def test_epsilon_that_no_step_keeps_is_refused():
    with pytest.raises(SettingError, match=r"privacy\.epsilon: expected a value that privacy\.noi"):
        found_by(recipe_for("steps", epsilon=1e-4, batch_size=20_000))


def test_other_recipes_are_left_alone():
    recipe = Recipe(privacy=PrivacySettings(enabled=True, epsilon=1.0))
    assert found_by(recipe) is recipe
