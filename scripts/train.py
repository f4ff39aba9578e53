"""Trains a recipe: checkpoints, TensorBoard logs, privacy ledger, evaluation, export.

The same command again continues a run that was stopped, and shows the report of a finished one.
A run directory may lie on a disk or in an object store (`--run gs://bucket/runs/mine`).
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import yaml

from configs.schema import Recipe, UserError
from data.faults import fault_in
from scripts.arguments import parse_recipe, publishable, recipe_parser, recipe_text, say_default
from scripts.callbacks import callbacks_of
from scripts.clipping import section_of_clipping, watch_clipping, with_clipping
from scripts.command import BEGAN, run_command, start_tensorflow
from scripts.decisions import (
    fit_decision,
    histogram_release,
    require_decidable,
    with_decisions,
)
from scripts.local_workers import run_workers
from scripts.measuring import answers_on, require_measurable

if TYPE_CHECKING:
    from evaluation import Evaluation
    from models import DecisionRule
    from training.loop import Loop
    from training.privacy.plan import PrivacyPlan
    from training.run_directory import RunDirectory
    from training.run_lock import RunLock
    from training.session import Session


def main(argv: Sequence[str]) -> None:
    """Body of `sterling train`."""
    parser = recipe_parser("train", "[RECIPE.yaml] [--run DIR]", __doc__)
    parser.add_argument(
        "--run", type=str, default=None, help="Run directory; none is runs/NAME-OF-THE-RECIPE."
    )
    parser.add_argument(
        "--local-workers", type=int, default=None, help="Train as this many processes, joined."
    )
    arguments = parse_recipe(parser, argv)
    if arguments.options.local_workers is not None:
        code = run_workers(["train", *argv], arguments.options.local_workers)
        if code:
            sys.exit(code)
        return
    say_default(argv, arguments.recipe)
    root = arguments.options.run or f"runs/{arguments.name}"
    train(arguments.recipe, root, debug=arguments.options.debug)


def train(recipe: Recipe, root: str, *, debug: bool = False) -> None:
    """Trains, evaluates, exports and reports; all of it lies in `root` afterwards."""
    start_tensorflow(debug=debug)
    from training.cluster import task_under
    from training.run_directory import RunDirectory
    from training.run_lock import RunLock
    from training.workers import naming_lost_workers

    run = RunDirectory.at(root)
    recipe = _as_begun(recipe, run)
    run.refuse_other(recipe_text(recipe))
    if run.evaluation.exists() and run.export.exists():
        _show_finished(run)
        return
    task = task_under(recipe.training.strategy)
    with RunLock(run.root, task) as lock, naming_lost_workers(joined=task is not None):
        _train(recipe, run, lock)


def _as_begun(recipe: Recipe, run: RunDirectory) -> Recipe:
    """The recipe with what its run found by calibration, so that it is the run's own recipe."""
    if recipe.privacy.calibrate == "noise" or not run.config.exists():
        return recipe
    try:
        found = yaml.safe_load(run.config.read_text(encoding="utf-8"))["training"]
    except (ValueError, yaml.YAMLError, TypeError, KeyError):
        return recipe  # it is damaged, and refused as another recipe's next
    names = {"steps": ("epochs", "steps"), "batch_size": ("batch_size",)}[recipe.privacy.calibrate]
    training = replace(recipe.training, **{name: found.get(name) for name in names})
    return replace(recipe, training=training)


def _train(recipe: Recipe, run: RunDirectory, lock: RunLock) -> None:
    started = time.monotonic()
    import evaluation
    from training.files import write_atomically
    from training.outcome import describe_privacy, refuse_other_data, write_dataset_card
    from training.payment import shortfall
    from training.privacy.ledger import Ledger
    from training.session import open_session

    session = open_session(recipe, run)
    recipe = session.recipe  # what was to be calibrated is filled in
    require_measurable(session)
    require_decidable(recipe, session.dataset)
    if recipe.decision.epsilon is not None:
        histogram_release(session)
    refuse_other_data(run, session.dataset)
    workers = session.workers
    ledger = None
    if session.plan is not None:
        ledger = Ledger(run.ledger, session.plan, writes=workers.is_chief)
    loop = session.loop(run, callbacks_of(session, run, ledger), ledger)
    watch_clipping(loop, session, run)
    if not workers.is_chief:
        _follow(loop)
        return
    if recipe.training.profile:
        loop.clock.trace_into = run.logs
    # Whatever can be refused has been refused: from here on there is a run.
    run.open(recipe_text(recipe), lock, ledger)
    write_dataset_card(run, session.dataset)
    if session.plan is not None:
        _tell_of(session.plan)
    seconds = {"setup": time.monotonic() - started}

    started = time.monotonic()
    steps = _run(loop)
    seconds["training"] = time.monotonic() - started

    started = time.monotonic()
    answers = answers_on("test", session.dataset, session.model.built, recipe)
    rule = fit_decision(session, run, ledger)
    privacy = describe_privacy(ledger, reproducible=session.randomness.reproducible, steps=steps)
    measured = with_decisions(
        evaluation.evaluate(
            answers.predictions,
            recipe.evaluation,
            privacy=privacy,
            counterfactual=answers.counterfactual,
        ),
        answers.predictions,
        rule,
        run,
    )
    if rule is not None:
        evaluation.write_decisions(measured.further["decisions"], run.logs, session.length.epochs)
    seconds["evaluation"] = time.monotonic() - started

    started = time.monotonic()
    clipping = section_of_clipping(loop, session)
    _export(session, run, with_clipping(measured, clipping, to_publish=True), privacy, rule)
    measured = with_clipping(measured, clipping)
    seconds["export"] = time.monotonic() - started
    measured = replace(measured, efficiency=_efficiency(session, seconds, loop))
    run.publish_logs()
    # Last of all: with it the run is finished.
    write_atomically(run.evaluation, measured.to_json())
    _report(run, measured)
    if loop.clock.input_wait_share is not None:
        print(f"Of its time, a step waited {loop.clock.input_wait_share:.1%} for input.")
    if line := shortfall(ledger, steps):
        print(line)
    workers.from_chief(None)  # only now may the others leave


def _tell_of(plan: PrivacyPlan) -> None:
    print(
        f"Privacy: epsilon {plan.epsilon(plan.steps):.4g} at delta {plan.delta:.4g} for each of "
        f"{plan.num_examples} {plan.unit}s after {plan.steps} steps, noise multiplier "
        f"{plan.noise_multiplier:.4g}."
    )


def _follow(loop: Loop) -> None:
    """Trains as one of the workers that write nothing, and stays until the chief is done."""
    _run(loop)
    loop.workers.from_chief(None)


def _run(loop: Loop) -> int:
    """Trains; returns the optimizer steps taken in all.

    Raises:
        UserError: As `Loop.run`, or if another worker was lost.
    """
    import tensorflow as tf

    from training.workers import lost_worker

    try:
        return loop.run()
    except tf.errors.OpError as error:
        if loop.workers.count == 1 or fault_in(error) is not None:
            raise
        raise lost_worker(error) from error


def _efficiency(session: Session, seconds: dict[str, float], loop: Loop) -> dict[str, Any]:
    expected = loop.steps_taken * session.recipe.training.batch_size
    unit = "example" if session.plan is None else session.plan.unit
    first = loop.clock.first_step_ended
    # ru_maxrss counts kilobytes on Linux, bytes on macOS.
    peak_unit = 1e9 if sys.platform == "darwin" else 1e6
    return {
        "seconds": seconds,
        f"training_{unit}s_per_second": expected / seconds["training"] if first else None,
        "command_to_first_step_seconds": first - BEGAN if first else None,
        # Of the steady steps' time, what they spent waiting for the next batch.
        "input_wait_share": loop.clock.input_wait_share,
        "peak_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / peak_unit,
        "parameters": session.model.built.model.count_params(),
        "trained_parameters": sum(
            int(v.value.shape.num_elements()) for v in session.model.built.model.trainable_variables
        ),
    }


def _export(
    session: Session,
    run: RunDirectory,
    measured: Evaluation,
    privacy: dict[str, Any] | None,
    rule: DecisionRule | None,
) -> None:
    from training.files import write_atomically
    from training.outcome import export

    statement = (privacy or {}).get("statement", "Trained without differential privacy.")
    write_atomically(run.privacy_statement, statement + "\n")
    export(
        session.model.built,
        run.export,
        session.dataset.info.label_names,
        {
            "recipe.yaml": recipe_text(publishable(session.recipe)),
            "privacy.txt": statement + "\n",
            "evaluation.json": measured.to_json(),
        },
        rule,
    )


def _show_finished(run: RunDirectory) -> None:
    from evaluation import Evaluation

    try:
        measured = Evaluation.from_json(run.evaluation.read_text(encoding="utf-8"))
    except (UserError, ValueError) as error:
        raise UserError(
            f"{run.evaluation}: is damaged ({error}). Remove it, and the same command measures "
            "the finished run again."
        ) from error
    print(f"{run.root}: this run is finished. Its report:")
    _report(run, measured)


def _report(run: RunDirectory, measured: Evaluation) -> None:
    from evaluation import print_report
    from training.outcome import brief_privacy

    print_report(
        measured,
        privacy=brief_privacy(measured.privacy),
        seconds=(measured.efficiency or {}).get("seconds", {}),
        paths={
            "SavedModel": run.export / "saved_model",
            "Keras file": run.export / "model.keras",
            "TensorBoard logs": run.published_logs,
            "Evaluation": run.evaluation,
            **({"Privacy ledger": run.ledger} if run.ledger.exists() else {}),
        },
    )


if __name__ == "__main__":
    sys.exit(run_command(main))
