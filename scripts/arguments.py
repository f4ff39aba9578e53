"""Recipe <- YAML file <- dotted command-line overrides, typed and checked; no TensorFlow here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonargparse
import yaml

from configs.schema import Recipe
from scripts.wording import refuse_unreadable, reworded

_DESCRIPTION = (
    "A recipe is a YAML file; every setting can be overridden: --privacy.epsilon=3. Settings of "
    "the file win over defaults, the command line over the file."
)
_SECTIONS = tuple(Recipe.__dataclass_fields__)


@dataclass(frozen=True)
class Arguments:
    """What a command was asked to do.

    Attributes:
        recipe: The resolved recipe.
        name: The recipe file's stem; "run" without a file.
        options: The command's own options.
    """

    recipe: Recipe
    name: str
    options: Any


def recipe_text(recipe: Recipe) -> str:
    """The resolved recipe as YAML; reading it back gives the same recipe."""
    return yaml.safe_dump(asdict(recipe), sort_keys=False, allow_unicode=True)


def publishable(recipe: Recipe) -> Recipe:
    """The recipe as an export may carry it: with a private run's seed, the noise is no secret."""
    if not recipe.privacy.enabled:
        return recipe
    return replace(recipe, training=replace(recipe.training, seed=None))


def new_parser(command: str, usage: str, description: str) -> jsonargparse.ArgumentParser:
    """A parser with the options that every command has."""
    parser = jsonargparse.ArgumentParser(
        prog=f"sterling {command}",
        usage=f"sterling {command} {usage}",
        description=description,
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("--debug", action="store_true", help="Show tracebacks of errors.")
    return parser


def recipe_parser(command: str, usage: str, description: str) -> jsonargparse.ArgumentParser:
    """A parser for a command that takes a recipe (its first argument) and overrides."""
    parser = new_parser(command, f"{usage} [--SECTION.SETTING=VALUE ...]", description)
    parser.epilog = _DESCRIPTION
    parser.add_argument("--config", action="config", help="The recipe (or the first argument).")
    parser.add_class_arguments(Recipe, nested_key=None, as_group=True)
    return parser


def parse(parser: jsonargparse.ArgumentParser, argv: Sequence[str]) -> Any:
    """Parses a command line.

    Raises:
        UserError: If an option is unknown, of the wrong type or impossible.
    """
    try:
        return parser.instantiate(parser.parse_args(list(argv)))
    # TypeError is what jsonargparse raises for a key that no class takes.
    except (jsonargparse.ArgumentError, TypeError) as error:
        raise reworded(str(error)) from error


def parse_recipe(parser: jsonargparse.ArgumentParser, argv: Sequence[str]) -> Arguments:
    """Parses a command line that may begin with a recipe's path.

    Raises:
        UserError: If a setting is unknown, of the wrong type or impossible; the message names
            key, value and what was expected.
    """
    sections, name, options = parse_sections(parser, argv)
    return Arguments(Recipe(**sections), name, options)


def parse_sections(
    parser: jsonargparse.ArgumentParser, argv: Sequence[str]
) -> tuple[dict[str, Any], str, Any]:
    """The same, sections of the recipe not yet held against each other.

    Returns:
        The sections by name, and `Arguments.name` and `Arguments.options`.

    Raises:
        UserError: If a section by itself is wrong.
    """
    argv = list(argv)
    name = "run"
    if argv and not argv[0].startswith("-"):
        argv[0:1] = ["--config", argv[0]]
    own = {action.dest for action in parser._actions}
    for option, value in pairwise(argv):
        if option == "--config":
            refuse_unreadable(value, own)
            name = Path(value).stem
    options = parse(parser, argv)
    return {section: options[section] for section in _SECTIONS}, name, options


def say_default(argv: Sequence[str], recipe: Recipe) -> None:
    """Says which recipe a command takes, where its command line names none.

    Args:
        argv: The command line, after the command's name.
        recipe: What was made of it.
    """
    if any(argument.partition("=")[0] == "--config" for argument in argv):
        return
    if argv and not argv[0].startswith("-"):
        return
    print(
        "No recipe is named: the default one is taken, with what the command line sets "
        f"(data.source {recipe.data.source}, model.name {recipe.model.name}, privacy "
        f"{'on' if recipe.privacy.enabled else 'off'})."
    )
