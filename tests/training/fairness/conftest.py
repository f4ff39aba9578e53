"""What tests of games share: people to train on."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from configs.schema import Recipe
from tests.training.fairness.people import recipe_over


@pytest.fixture(scope="module")
def in_own_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder that a module's tests run in, so that recipes name their data by relative paths.

    The paths name the random streams of a seeded private run; pytest's own names differ from run to
    run, and so would all that is drawn.
    """
    folder = tmp_path_factory.mktemp("own")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


@pytest.fixture(scope="module")
def recipe(in_own_folder: Path) -> Recipe:
    return recipe_over(Path("people.csv"))
