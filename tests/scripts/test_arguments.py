"""Recipe <- YAML <- overrides, and one clear line for whatever is wrong with them."""

from __future__ import annotations

import dataclasses

import pytest
import yaml

from configs.schema import (
    MlpSettings,
    ModelSettings,
    OptimizerSettings,
    PrivacySettings,
    Recipe,
    TrainingSettings,
    UserError,
)
from scripts.arguments import parse_recipe, recipe_parser, recipe_text
from scripts.cli import main
from scripts.wording import expectation, settings_of


def parsed(*argv: str):
    parser = recipe_parser("train", "[RECIPE.yaml]", "Trains.")
    parser.add_argument("--run", type=str, default=None)
    return parse_recipe(parser, argv)


@pytest.fixture
def write(tmp_path):
    def write(text: str, name: str = "recipe.yaml") -> str:
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return write


def test_overrides_win_over_the_file_and_the_file_over_defaults(write):
    path = write("training: {epochs: 3, batch_size: 7}\nprivacy: {epsilon: 2}", "mine.yaml")
    arguments = parsed(path, "--training.batch_size=9", "--training.optimizer.options.momentum=0.5")
    assert arguments.name == "mine"
    assert arguments.recipe.training.epochs == 3
    assert arguments.recipe.training.batch_size == 9
    assert arguments.recipe.training.optimizer.options == {"momentum": 0.5}
    assert arguments.recipe.privacy.epsilon == 2
    assert arguments.recipe.data == Recipe().data


def test_without_a_file_every_setting_has_its_default():
    arguments = parsed()
    assert (arguments.recipe, arguments.name) == (Recipe(), "run")


def test_resolved_recipe_reads_back_as_itself(write):
    recipe = Recipe(
        model=ModelSettings(name="mlp", mlp=MlpSettings(hidden_units=[3, 4])),
        training=TrainingSettings(
            steps=5,
            optimizer=OptimizerSettings(learning_rate=1e-5, options={"weight_decay": 1e-3}),
            class_weights={"no": 2.0, "é": 0.5},
            callbacks={"ReduceLROnPlateau": {"patience": 1, "monitor": "val_loss"}},
        ),
        privacy=PrivacySettings(enabled=True, epsilon=0.3),
    )
    assert parsed(write(recipe_text(recipe))).recipe == recipe


def test_printed_config_reads_back_as_the_same_recipe(write, capsys):
    path = write("training: {steps: 4, optimizer: {learning_rate: 1e-4}}\nprivacy: {epsilon: 2}")
    with pytest.raises(SystemExit) as stopped:
        parsed(path, "--training.l2=1e-6", "--print_config")
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    again = parsed(write(printed, "again.yaml")).recipe
    assert again == parsed(path, "--training.l2=1e-6").recipe
    assert again.training.optimizer.learning_rate == 1e-4


# Override -> what the line must be.
WRONG = {
    "--privacy.epsilo=3": "--privacy.epsilo: expected the name of a setting (did you mean "
    "privacy.epsilon?). Received: '3'",
    "--epsilon=3": "--epsilon: expected the name of a setting (did you mean privacy.epsilon or "
    "decision.epsilon?). Received: '3'",
    "--privacy.epsilon=abc": "privacy.epsilon: expected a number, or null. Received: 'abc'",
    "--privacy.epsilon=-1": "privacy.epsilon: expected a number > 0. Received: -1.0",
    "--privacy.epsilon=.inf": "privacy.epsilon: expected a number > 0. Received: inf",
    "--privacy.clipping_norm=0": "privacy.clipping_norm: expected a number > 0. Received: 0.0",
    "--privacy.delta=1": "privacy.delta: expected a probability in (0, 1). Received: 1.0",
    "--training.steps=1.5": "training.steps: expected a whole number, or null. Received: '1.5'",
    "--training.batch_size=0": "training.batch_size: expected a whole number >= 1. Received: 0",
    "--training.optimizer.options=3": "training.optimizer.options: expected a mapping of names to "
    "values. Received: '3'",
    "--privacy.enabled=maybe": "privacy.enabled: expected true or false. Received: 'maybe'",
    "--model.name=alexnet": "model.name: expected one of bert, resnet50, mlp, cnn. Received: "
    "'alexnet'",
    "--model.mlp.hidden_units=[a]": "model.mlp.hidden_units: expected a list of whole numbers. "
    "Received: 'a'",
    "--data.limit=-3": "data.limit: expected a whole number > 0. Received: -3",
    "extra": "extra: expected --SETTING=VALUE here; the recipe is the first argument.",
}


@pytest.mark.parametrize(("override", "line"), WRONG.items(), ids=WRONG)
def test_wrong_override_names_key_value_and_expectation(write, override, line):
    with pytest.raises(UserError) as error:
        parsed(write("{}"), override)
    assert str(error.value) == line


# A command's own options, which are no settings -> the line.
WRONG_OPTIONS = {
    ("ledger",): "RUN: expected as an argument. Received: nothing",
    ("train", "--run"): "--run: expected a value. Received: nothing",
    ("train", "--local-workers=two"): "--local-workers: expected a whole number. Received: 'two'",
    ("train", "--data.limit="): "data.limit: expected a whole number, or null. Received: ''",
    ("check-private", "--convert=layer"): "--convert: expected one of group, frozen. Received: "
    "'layer'",
    ("data-service", "--port=x"): "--port: expected a whole number. Received: 'x'",
    ("data-service", "--port=99999"): "--port: expected a port (1 to 65535), or 0: a free one. "
    "Received: 99999",
}


@pytest.mark.parametrize(("argv", "line"), WRONG_OPTIONS.items(), ids=map(" ".join, WRONG_OPTIONS))
def test_wrong_option_of_a_command_is_one_line_like_a_wrong_setting(capsys, argv, line):
    assert main(argv) == 2
    assert capsys.readouterr().err == f"sterling: {line}\n"


@pytest.mark.parametrize(
    ("command", "named"),
    [
        ("check-private", None),
        ("check-tpu", None),
        ("train", None),
        ("check-private", "{}"),
        ("train", "--config={}"),
    ],
)
def test_command_without_a_recipe_says_that_it_takes_the_default_one(
    write, capsys, monkeypatch, command, named
):
    def started(*, debug):
        raise UserError("far enough")

    monkeypatch.setattr(f"scripts.{command.replace('-', '_')}.start_tensorflow", started)
    path = write("model: {name: cnn}", "mine.yaml")
    recipe = [] if named is None else [named.format(path)]
    assert main([command, *recipe, "--data.source=digits"]) == 2
    shown = capsys.readouterr()
    assert shown.err == "sterling: far enough\n"
    assert shown.out == (
        "No recipe is named: the default one is taken, with what the command line sets "
        "(data.source digits, model.name bert, privacy off).\n"
        if named is None
        else ""
    )


def test_privacy_needs_one_of_epsilon_and_noise_multiplier():
    with pytest.raises(UserError, match=r"^privacy\.noise_multiplier: expected null .* 1\.0$"):
        parsed("--privacy.enabled=true", "--privacy.epsilon=3", "--privacy.noise_multiplier=1")
    with pytest.raises(UserError, match=r"^privacy\.epsilon: expected a number > 0.*: None$"):
        parsed("--privacy.enabled=true")


# File -> what the line must hold.
WRONG_FILES = {
    "privacy: {epsilo: 3}": "privacy.epsilo: expected the name of a setting (did you mean "
    "privacy.epsilon",
    "model: {bert: {sequence_lenght: 9}}": "model.bert.sequence_lenght: expected the name of a "
    "setting (did you mean model.bert.sequence_length",
    "dat: {source: digits}": "dat: expected the name of a setting (did you mean data?)",
    "training: 3": "training: expected settings (epochs, steps,",
    "privacy: {epsilon: abc}": "privacy.epsilon: expected a number, or null. Received: 'abc'",
    "data: {source: mars}": "data.source: expected one of census, digits,",
    "training: {epochs: 1, steps: 3}": "training.steps: expected either training.epochs or "
    "training.steps, not both (--training.steps=null counts epochs). Received: 3",
    "just words": "recipe.yaml: expected settings (data, model,",
    "data: {source: digits\nmodel: [": "recipe.yaml, line 2: expected YAML",
    "data: {table: {groups: [sex, sex]}}": "data.table.groups: expected a list in which every name "
    "stands once. Received: ['sex', 'sex']",
    "privacy: {epsilon: 3}\ndata: {}\nprivacy: {}": "recipe.yaml, line 3: expected privacy once; "
    "it stands in line 1 already",
    "training:\n  callbacks:\n    ModelCheckpoint: {filepath: a.keras}\n"
    "    ModelCheckpoint: {filepath: b.keras}": "recipe.yaml, line 4: expected "
    "training.callbacks.ModelCheckpoint once",
    "privacy: {clipping: {groups: [{variables: a, variables: b}]}}": "expected "
    "privacy.clipping.groups.variables once",
}


@pytest.mark.parametrize(("content", "line"), WRONG_FILES.items(), ids=WRONG_FILES)
def test_wrong_file_names_key_value_and_expectation(write, content, line):
    with pytest.raises(UserError) as error:
        parsed(write(content))
    assert line in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.yaml: expected a recipe file \(No such file"):
        parsed(str(tmp_path / "none.yaml"))


def test_every_setting_has_an_expectation_in_words():
    for key, kind in settings_of().items():
        assert expectation(kind), key


def test_help_lists_every_setting_with_type_default_and_meaning():
    text = " ".join(recipe_parser("train", "", "").format_help().split())
    for key, kind in settings_of().items():
        if dataclasses.is_dataclass(kind):
            continue
        start = text.index(f"--{key} ") + len(key)
        entry = text[start : text.index("default: ", start)]
        assert "type: " in entry, key
        meaning = entry[: entry.index("(type: ")]
        assert meaning.rstrip().endswith("."), key


def test_shipped_recipes_are_recipes():
    from pathlib import Path

    recipes = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))
    assert recipes
    for path in recipes:
        recipe = parsed(str(path)).recipe
        assert yaml.safe_load(recipe_text(recipe))["data"]["source"] == recipe.data.source, path
