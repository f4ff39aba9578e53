"""What tests of games share: people to train on."""

import pytest

from configs.schema import Recipe
from tests.training.fairness.people import recipe_over


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Recipe:
    return recipe_over(tmp_path_factory.mktemp("people") / "people.csv")
