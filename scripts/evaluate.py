"""Measures a trained run again, on any split or dataset, from its newest checkpoint."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from configs.schema import SettingError, UserError
from scripts.arguments import parse_recipe, recipe_parser
from scripts.command import run_command, start_tensorflow
from scripts.decisions import read_decision, with_decisions
from scripts.measuring import answers_on
from training.files import on_disk, path_of, write_atomically


def main(argv: Sequence[str]) -> None:
    """Body of `sterling evaluate`."""
    parser = recipe_parser("evaluate", "--run DIR [--split NAME] [--output FILE]", __doc__)
    parser.add_argument("--run", type=str, default=None, help="Run directory (required).")
    parser.add_argument("--split", type=str, default="test", help="train, validation or test.")
    parser.add_argument(
        "--output", type=str, default=None, help="JSON file; none is DIR/evaluation-SPLIT.json."
    )
    # The run's own recipe comes first, so that every option overrides it.
    root = _run_of(argv)
    if root is None:
        arguments = parse_recipe(parser, argv)
    else:
        with on_disk(_config_of(root)) as config:
            arguments = parse_recipe(parser, ["--config", str(config), *argv])
    options = arguments.options
    if options.run is None:
        raise UserError("--run: expected a run directory. Received: nothing")
    if options.split not in ("train", "validation", "test"):
        raise SettingError("--split", options.split, "train, validation or test")

    start_tensorflow(debug=options.debug)
    import data
    import evaluation
    from training.outcome import brief_privacy, describe_privacy, restore_model
    from training.privacy.ledger import Ledger
    from training.run_directory import RunDirectory

    run = RunDirectory.existing(options.run)
    built, trained_for = restore_model(run, arguments.recipe)
    dataset = data.load(arguments.recipe.data)
    if dataset.info.label_names != trained_for.label_names:
        raise SettingError(
            "data.label_names",
            list(dataset.info.label_names),
            f"the labels that the run was trained for, {list(trained_for.label_names)}",
        )
    started = time.monotonic()
    settings = arguments.recipe.evaluation
    evaluation.check_counterfactuals(settings.counterfactual, dataset.info.modality)
    answers = answers_on(options.split, dataset, built, arguments.recipe)
    ledger = Ledger.existing(run.ledger) if run.ledger.exists() else None
    if arguments.recipe.privacy.enabled and ledger is None:
        raise run.lost_ledger()
    seeded = arguments.recipe.training.seed is not None
    privacy = describe_privacy(ledger, reproducible=seeded)
    seconds = {"evaluation": time.monotonic() - started}
    measured = with_decisions(
        evaluation.evaluate(
            answers.predictions,
            settings,
            privacy=privacy,
            counterfactual=answers.counterfactual,
            efficiency={"seconds": seconds},
        ),
        answers.predictions,
        read_decision(run),
        run,
    )
    output = path_of(options.output or run.root / f"evaluation-{options.split}.json")
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(output, measured.to_json())
    evaluation.print_report(
        measured,
        privacy=brief_privacy(measured.privacy),
        seconds=seconds,
        paths={"Evaluation": output},
    )
    if not run.evaluation.exists():
        print(f"{run.root}: this run is not finished; what was measured is its newest checkpoint.")


def _run_of(argv: Sequence[str]) -> str | None:
    for position, argument in enumerate(argv):
        if argument.startswith("--run="):
            return argument.partition("=")[2]
        if argument == "--run" and position + 1 < len(argv):
            return argv[position + 1]
    return None


def _config_of(root: str) -> Path:
    config = path_of(root) / "config.yaml"
    if not config.exists():
        raise UserError(f"--run: expected a run directory (with a config.yaml). Received: {root!r}")
    return config


if __name__ == "__main__":
    sys.exit(run_command(main))
