"""Exports a trained run: a SavedModel, a .keras file, or a Hugging Face directory."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from configs.schema import Recipe, SettingError, UserError
from scripts.arguments import (
    new_parser,
    parse,
    parse_recipe,
    publishable,
    recipe_parser,
    recipe_text,
)
from scripts.command import run_command, start_tensorflow
from scripts.decisions import read_decision
from training.files import is_local, on_disk, path_of

if TYPE_CHECKING:
    from training.run_directory import RunDirectory

_FORMATS = ("keras", "huggingface")


def main(argv: Sequence[str]) -> None:
    """Body of `sterling export`."""
    parser = new_parser("export", "--run DIR [--output DIR] [--format FORMAT]", __doc__)
    parser.add_argument("--run", type=str, default=None, help="Run directory (required).")
    parser.add_argument("--output", type=str, default=None, help="Folder; none is DIR/export.")
    parser.add_argument(
        "--format",
        type=str,
        default="keras",
        help="`keras` writes saved_model/ and model.keras; `huggingface` a directory that "
        "transformers reads (BERT only).",
    )
    options = parse(parser, argv)
    if options.run is None:
        raise UserError("--run: expected a run directory. Received: nothing")
    if options.format not in _FORMATS:
        raise SettingError("--format", options.format, f"one of {', '.join(_FORMATS)}")

    start_tensorflow(debug=options.debug)
    from training.outcome import export, restore_model
    from training.run_directory import RunDirectory

    run = RunDirectory.existing(options.run)
    recipe = recipe_of(run.config)
    if options.format == "huggingface" and recipe.model.name != "bert":
        raise SettingError(
            "--format",
            options.format,
            f"keras, because the run's model is {recipe.model.name} and only bert has a Hugging "
            "Face layout",
        )
    built, info = restore_model(run, recipe)
    output = path_of(options.output or run.export)
    if options.format == "huggingface":
        import models

        output = path_of(options.output or run.export / "huggingface")
        if not is_local(output):
            raise SettingError("--output", str(output), "a folder on a disk with huggingface")
        models.save_huggingface(built, output, info.label_names)
    else:
        evaluation = {"evaluation.json": run.evaluation} if run.evaluation.exists() else {}
        export(
            built,
            output,
            info.label_names,
            {
                "recipe.yaml": recipe_text(publishable(recipe)),
                "privacy.txt": _statement(run, recipe) + "\n",
                **{name: path.read_text(encoding="utf-8") for name, path in evaluation.items()},
            },
            read_decision(run),
        )
    print(f"Exported to {output}")
    if not run.evaluation.exists():
        print(f"{run.root}: this run is not finished; what was exported is its newest checkpoint.")


def _statement(run: RunDirectory, recipe: Recipe) -> str:
    """The guarantee in words, of an unfinished run too: of what its ledger holds.

    Raises:
        UserError: If the run is private and its ledger is lost.
    """
    from training.outcome import describe_privacy
    from training.privacy.ledger import Ledger

    if run.privacy_statement.exists():
        return run.privacy_statement.read_text(encoding="utf-8").strip()
    if not recipe.privacy.enabled:
        return "Trained without differential privacy."
    if not run.ledger.exists():
        raise run.lost_ledger()
    seeded = recipe.training.seed is not None
    privacy = describe_privacy(Ledger.existing(run.ledger), reproducible=seeded)
    return str((privacy or {})["statement"])


def recipe_of(config: Path) -> Recipe:
    """The recipe a run was made with."""
    with on_disk(config) as file:
        return parse_recipe(recipe_parser("export", "", ""), ["--config", str(file)]).recipe


if __name__ == "__main__":
    sys.exit(run_command(main))
