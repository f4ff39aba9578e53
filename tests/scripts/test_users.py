"""A recipe that protects users, run as anyone runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.cli import main
from tests.training.test_users import PEOPLE, write_people
from training.privacy.ledger import Ledger
from training.privacy.plan import PrivacyPlan

# One process makes the finished run.
pytestmark = pytest.mark.xdist_group("users")

ROOT = Path(__file__).parents[2]


def recipe_of(people: Path, **privacy: Any) -> dict[str, Any]:
    table = {"train": str(people), "features": ["a", "b"], "groups": ["ward"]}
    return {
        "data": {"source": "csv", "table": table, "user": "who", "validation_fraction": 0.2},
        "model": {"name": "mlp", "mlp": {"hidden_units": [6]}},
        "training": {"epochs": 2, "batch_size": 7, "optimizer": {"learning_rate": 0.01}},
        "privacy": {
            "enabled": True,
            "noise_multiplier": 1.2,
            "unit": "user",
            "examples_per_user": 3,
            **privacy,
        },
        "evaluation": {"bootstrap_resamples": 0},
    }


def write_recipe(folder: Path, recipe: dict[str, Any]) -> Path:
    path = folder / "people.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A finished run's directory, and what its process printed."""
    folder = tmp_path_factory.mktemp("people")
    people = write_people(folder / "people.csv")
    # Names long enough that no picture in the logs holds one by chance.
    people.write_text(people.read_text().replace(",p0", ",patient-0"))
    recipe = write_recipe(folder, recipe_of(people))
    done = subprocess.run(
        [sys.executable, "-m", "scripts.cli", "train", str(recipe), "--run", str(folder / "run")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "run", done.stdout


def test_run_protects_users_and_says_so_everywhere(run: tuple[Path, str]) -> None:
    root, printed = run
    users, steps = 21, 6  # of 30, less validation and test
    of_examples = PrivacyPlan.dp_sgd(
        num_examples=users,
        batch_size=7,
        steps=steps,
        clipping_norm=1.0,
        noise_multiplier=1.2,
        delta=users**-1.1,
    )
    epsilon = of_examples.epsilon(steps)
    evaluation = json.loads((root / "evaluation.json").read_text())
    privacy = evaluation["privacy"]
    assert (privacy["unit"], privacy["epsilon"], privacy["releases"]) == ("user", epsilon, steps)
    assert privacy["plan"]["sampling"]["num_users"] == users
    assert privacy["plan"]["rows_per_record"] == 3
    assert "training_users_per_second" in evaluation["efficiency"]
    plan = Ledger.existing(root / "ledger.jsonl").plan
    assert (plan.unit, plan.num_examples, plan.epsilon(steps)) == ("user", users, epsilon)
    for folder in (root, root / "export/saved_model/assets"):
        said = (folder / "privacy.txt").read_text()
        assert "adding or removing one user with all of their training examples" in said
        assert "each user drawn independently" in said
        assert f"7 expected of {users}" in said
    events = b"".join(path.read_bytes() for path in root.glob("logs/**/events*"))
    assert b"Privacy spent on the training users" in events
    assert f"for each of {users} users" in printed
    assert f"protects each of {users} users" in " ".join(printed.split())


def test_ledger_of_users_is_shown_as_theirs(
    run: tuple[Path, str], capfd: pytest.CaptureFixture
) -> None:
    assert main(["ledger", str(run[0])]) == 0
    assert (
        "Protected: each of 21 users with all of their training examples; 7 users a step, at most "
        "3 examples of each."
    ) in capfd.readouterr().out
    assert main(["ledger", str(run[0]), "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["plan"]["unit"] == "user"


def test_no_user_is_named_in_what_a_run_leaves(run: tuple[Path, str]) -> None:
    for path in run[0].rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        assert not any(b"patient-%03d" % person in content for person in range(PEOPLE)), path
    card = json.loads((run[0] / "dataset.json").read_text())
    assert card["users"] == 21


def test_run_is_not_continued_for_examples(run: tuple[Path, str], capfd: Any) -> None:
    recipe = run[0].parent / "people.yaml"
    changed = ["--privacy.unit=example", "--privacy.examples_per_user=null"]
    assert main(["train", str(recipe), "--run", str(run[0]), *changed]) == 2
    assert "holds a run of another recipe (privacy." in capfd.readouterr().err


REFUSED = {
    "census": (["--data.source=census"], "data.user: expected null: the census counts each"),
    "no user": (["--data.user=null"], "data.user: expected the column or feature that names"),
    "no column": (["--data.user=patient"], "data.user: expected a column of"),
    "too few": (["--training.batch_size=22"], "expected at most the 21 training users"),
    "a row of nobody": ([], "row 2: column 'who' is empty"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_recipe_that_cannot_protect_users_ends_with_one_line(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    changes, message = REFUSED[name]
    people = write_people(tmp_path / "people.csv")
    if name == "a row of nobody":
        header, first, *rest = people.read_text().splitlines()
        cells = first.split(",")
        cells[3] = ""
        people.write_text("\n".join([header, ",".join(cells), *rest]) + "\n")
    recipe = write_recipe(tmp_path, recipe_of(people))
    assert main(["train", str(recipe), "--run", str(tmp_path / "run"), *changes]) == 2
    assert message in capfd.readouterr().err.strip().splitlines()[-1]
    assert not (tmp_path / "run").exists()
