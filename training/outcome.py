"""What a run leaves behind besides its checkpoints: dataset card, privacy section, exports."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from configs.schema import Recipe, UserError
from data import Dataset, DatasetInfo
from data.contracts import Provenance
from models import BuiltModel, DecisionRule, build, export_saved_model, save_keras
from models.serving_notes import NAME, serving_notes
from training.checkpoints import Checkpoints
from training.differences import differences
from training.files import is_local, sync_tree, unwritable, upload_tree, write_atomically, writing
from training.payment import spent_without_a_step
from training.privacy.comparison import compared
from training.privacy.ledger import Ledger
from training.privacy.score_histogram import HistogramRelease
from training.run_directory import RunDirectory


def write_dataset_card(run: RunDirectory, dataset: Dataset) -> None:
    """Writes `dataset.json`: what later commands must know of the data without loading them."""
    card = _card(dataset)
    write_atomically(run.dataset_card, json.dumps(card, indent=1, ensure_ascii=False) + "\n")


def refuse_other_data(run: RunDirectory, dataset: Dataset) -> None:
    """Makes sure that a run that is continued still has the data it began with.

    The recipe may be the same and the file it names another; what a private run spent was spent
    on the data that were there.

    Raises:
        UserError: If they have changed; names what did.
    """
    if not run.dataset_card.exists():
        return
    try:
        there = json.loads(run.dataset_card.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{run.dataset_card}: cannot be read ({error}).") from error
    changes = differences(there, json.loads(json.dumps(_card(dataset))))
    if changes:
        raise UserError(
            f"{run.root}: the data have changed since this run began ({changes}). Bring back the "
            "data it began with, or begin a new run with --run; what this one spent stays spent."
        )


def _card(dataset: Dataset) -> dict[str, Any]:
    info = dataset.info
    return {
        "name": info.name,
        "modality": info.modality,
        "label_names": list(info.label_names),
        "groups": {name: list(values) for name, values in info.groups.items()},
        "input_shape": None if info.input_shape is None else list(info.input_shape),
        "examples": {name: len(dataset.split(name)) for name in ("train", "validation", "test")},
        **({} if dataset.train.users is None else {"users": len(np.unique(dataset.train.users))}),
        "skipped": {name: list(lines) for name, lines in info.skipped.items()},
        "provenance": {
            "source": info.provenance.source,
            "version": info.provenance.version,
            "licence": info.provenance.licence,
            "sha256": dict(info.provenance.sha256),
        },
    }


def read_dataset_card(run: RunDirectory) -> DatasetInfo:
    """What the run's model was trained for.

    Raises:
        UserError: If the card is missing or damaged.
    """
    try:
        card = json.loads(run.dataset_card.read_text(encoding="utf-8"))
        return DatasetInfo(
            name=card["name"],
            modality=card["modality"],
            label_names=tuple(card["label_names"]),
            groups={name: tuple(values) for name, values in card["groups"].items()},
            provenance=Provenance(**card["provenance"]),
            input_shape=None if card["input_shape"] is None else tuple(card["input_shape"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{run.dataset_card}: cannot be read ({error}).") from error


def describe_privacy(
    ledger: Ledger | None, *, reproducible: bool, steps: int | None = None
) -> dict[str, Any] | None:
    """The privacy section of an evaluation; None without privacy.

    Args:
        ledger: What was released.
        reproducible: Whether the recipe fixes the seed of the noise.
        steps: How many the run has taken and kept; None where it is not over.
    """
    if ledger is None:
        return None
    plan, validation = ledger.plan, _validation_section(ledger)
    lost = 0 if steps is None else spent_without_a_step(ledger, steps)
    statement = plan.statement(ledger.releases, reproducible=reproducible, tables=ledger.tables)
    if validation:
        statement += f" {validation['statement']}"
    return {
        "unit": plan.unit,
        "epsilon": ledger.epsilon,
        "delta": plan.delta,
        "releases": ledger.releases,
        **({"releases_without_a_step": lost} if lost else {}),
        **({"group_tables": ledger.tables} if plan.group_releases else {}),
        "noise_multiplier": plan.noise_multiplier,
        "clipping_norm": plan.clipping_norm,
        "plan": plan.to_dict(),
        "accountant": plan.accountant,
        "comparison": compared(ledger.event, plan.delta),
        "reproducible": reproducible,
        "validation": validation,
        "statement": statement,
    }


def _validation_section(ledger: Ledger) -> dict[str, Any] | None:
    """What was released of the validation examples; None where nothing was."""
    if not ledger.validation:
        return None
    release = HistogramRelease.from_dict(ledger.validation[-1])
    count = len(ledger.validation)
    return {
        "epsilon": release.spent(count),
        "delta": release.delta,
        "releases": count,
        "noise_multiplier": release.noise_multiplier,
        "noise_stddev": release.noise_stddev,
        "statement": release.statement(count),
    }


_BRIEF = (
    "epsilon",
    "delta",
    "releases",
    "releases_without_a_step",
    "noise_multiplier",
    "clipping_norm",
    "accountant",
)


def brief_privacy(section: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The numbers of the privacy section, without the statement in words."""
    if section is None:
        return None
    brief = {key: section[key] for key in _BRIEF if key in section}
    if section.get("unit") == "user":
        brief["protects"] = f"each of {section['plan']['sampling']['num_users']} users"
    others = section.get("comparison", {}).items()
    said = ", ".join(
        f"{name} {epsilon:.4g}" for name, epsilon in others if name != section["accountant"]
    )
    validation = section.get("validation")
    return {
        **brief,
        **({"other accountants say": said} if said else {}),
        **({"epsilon of the validation examples": validation["epsilon"]} if validation else {}),
    }


def restore_model(run: RunDirectory, recipe: Recipe) -> tuple[BuiltModel, DatasetInfo]:
    """The run's model with the weights of its newest checkpoint.

    Raises:
        UserError: If the run has no readable checkpoint.
    """
    info = read_dataset_card(run)
    keras.config.set_dtype_policy(recipe.training.precision)
    built = build(
        recipe.model,
        num_classes=len(info.label_names),
        modality=info.modality,
        input_shape=info.input_shape,
    )
    if Checkpoints(run.checkpoints, built.model).restore() is None:
        raise UserError(f"{run.root}: has no checkpoint yet. Run `sterling train` on it first.")
    return built, info


def export(
    built: BuiltModel,
    directory: Path,
    label_names: Sequence[str],
    assets: Mapping[str, str | bytes | Path],
    rule: DecisionRule | None = None,
) -> None:
    """Writes `saved_model/` and `model.keras` into `directory`, each all or nothing, and durably.

    Among the assets goes `serving.txt`: how the model is called.

    Raises:
        UserError: If they cannot be written.
    """
    with ExitStack() as stack:
        folder = directory
        if not is_local(directory):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        with writing(directory):
            folder.mkdir(parents=True, exist_ok=True)
            try:
                export_saved_model(
                    built,
                    folder / "saved_model",
                    label_names=label_names,
                    assets={**assets, NAME: serving_notes(built, label_names, rule)},
                    rule=rule,
                )
            except tf.errors.OpError as error:
                raise unwritable(directory, error.message) from error
            save_keras(built.model, folder / "model.keras")
            sync_tree(folder)
        if folder is not directory:
            upload_tree(folder, directory)
