"""What each mitigation does for groups, and what it costs: every recipe of configs/fairness/.

    python -m benchmarks.fairness
    python -m benchmarks.fairness --recipes none reweighing --seeds 1 --split validation
    python -m benchmarks.fairness --features features.npz    # keep the encoder's work for next time

The recipes share data and frozen encoder, so people are encoded once and only heads are trained, a
few seconds each; seeds differ in batches (and noise), not in the first weights. One table: mean
over seeds, and the standard deviation behind it. Settings were chosen on the validation split.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

_FOLDER = Path("configs/fairness")
_FIGURES = (
    "accuracy",
    "worst_group_accuracy",
    "demographic_parity_difference",
    "equalized_odds_difference",
    "counterfactual_flips",
    "counterfactual_shift",
    "epsilon",
    "seconds",
)


class Encoded:
    """A session whose people have been encoded, for training one head after the other."""

    def __init__(self, recipe: Any, features: str | None):
        from data import prepare
        from training.frozen_features import through_prefix
        from training.session import open_session

        kept = features is not None and Path(features).exists()
        if kept:
            # Without a budget for them, the session computes no features of its own.
            training = dataclasses.replace(recipe.training, cache_frozen_gb=0.0)
            recipe = dataclasses.replace(recipe, training=training)
        session = open_session(recipe)
        splits = {"train": session.train, "validation": session.validation}
        model = session.model
        if kept:
            import models

            prefix, trained = models.split_frozen_prefix(model.built)
            model = dataclasses.replace(model, prefix=prefix, trained=trained)
        splits["test"] = prepare(session.dataset.test, model.built.preprocess)
        if kept:
            with np.load(features) as arrays:
                for name, split in splits.items():
                    inputs = {k.split("/", 1)[1]: arrays[k] for k in arrays if k.startswith(name)}
                    splits[name] = dataclasses.replace(split, inputs=inputs)
        else:
            splits["test"] = through_prefix(splits["test"], model.prefix)
            if features is not None:
                held = {f"{n}/{k}": v for n, s in splits.items() for k, v in s.inputs.items()}
                np.savez(features, **held)
        self.splits = splits
        self.session = dataclasses.replace(
            session, model=model, train=splits["train"], validation=splits["validation"]
        )
        self._versions: dict[str, Any] = {}
        self.first_weights = [v.numpy() for v in model.trained.trainable_variables]

    def versions(self, swaps: Any) -> tuple[Any, Any]:
        """The training people and their changed versions, encoded, and where each version is."""
        from data import prepare

        key = json.dumps(swaps.sha256)
        if key not in self._versions:
            model, dataset = self.session.model, self.session.dataset
            split, table = swaps.applied_to(dataset.train)
            prepared = prepare(split, model.built.preprocess)
            first = len(dataset.train)
            parts = [self.splits["train"].inputs]
            for start in range(first, len(split), 256):
                rows = {k: v[start : start + 256] for k, v in prepared.inputs.items()}
                encoded = model.prefix(rows, training=False)
                parts.append({k: np.asarray(v) for k, v in encoded.items()})
            inputs = {k: np.concatenate([part[k] for part in parts]) for k in parts[0]}
            self._versions[key] = dataclasses.replace(prepared, inputs=inputs), table
        return self._versions[key]

    def run(self, recipe: Any, seed: int, split: str) -> dict[str, float]:
        """Trains a head by a recipe and measures it on a split."""
        from data import batches_in_order
        from evaluation import answer_raw, measure_counterfactuals, predict_batches
        from scripts.decisions import fit_decision
        from training.fairness import Mitigation, Preparation
        from training.length import run_length
        from training.privacy.clip_watch import ClipWatch
        from training.privacy.group_releases import GroupReleases
        from training.privacy.ledger import Ledger
        from training.privacy.plan import PrivacyPlan
        from training.randomness import Randomness
        from training.run_directory import RunDirectory

        length = run_length(recipe.training, len(self.session.train))
        positive = recipe.evaluation.positive_label
        preparation = Preparation.of(recipe.fairness, self.session.dataset)
        plan = None
        if recipe.privacy.enabled:
            plan = PrivacyPlan.from_settings(
                recipe.privacy,
                num_examples=len(self.session.train),
                batch_size=recipe.training.batch_size,
                steps=length.steps,
                shares=preparation.shares,
                versions=preparation.rows_per_record,
                watch=ClipWatch.of(recipe.privacy.clipping.watch, self.session.dataset.info.groups),
                group_releases=GroupReleases.from_settings(
                    recipe.fairness, len(self.session.train), recipe.training.batch_size
                ),
            )
        train, table = self.splits["train"], None
        if preparation.swaps is not None:
            train, table = self.versions(preparation.swaps)
        session = dataclasses.replace(
            self.session,
            recipe=recipe,
            plan=plan,
            length=length,
            train=train,
            versions=table,
            preparation=preparation,
            mitigation=Mitigation.of(recipe.fairness, self.session.dataset, positive, plan),
            randomness=Randomness.from_seed(seed, json.dumps(dataclasses.asdict(recipe))),
        )
        trained = session.model.trained
        for variable, value in zip(trained.trainable_variables, self.first_weights, strict=True):
            variable.assign(value)
        with tempfile.TemporaryDirectory() as folder:
            run = RunDirectory.at(folder)
            ledger = None if plan is None else Ledger(run.ledger, plan)
            loop = session.loop(run, [], ledger, verbose=0)
            started = time.perf_counter()
            loop.run()
            seconds = time.perf_counter() - started
            epsilon = float("inf") if ledger is None else ledger.epsilon
            rule = fit_decision(session, run, ledger)
        batches = batches_in_order(self.splits[split], 2048)
        predictions = predict_batches(trained, batches, session.dataset.info, split)
        settings = dataclasses.replace(
            recipe.evaluation, attributes=["sex"], bootstrap_resamples=0, permutations=0
        )
        # Whether answers follow the terms of a list, where the recipe names one.
        built = session.model.built
        changed = measure_counterfactuals(
            answer_raw(built.model, built.preprocess, 256),
            session.dataset.split(split),
            settings,
        )
        found = {} if changed is None else next(iter(changed["perturbations"].values()))
        return {
            **_measured(predictions, settings, rule),
            "counterfactual_flips": found.get("flip_rate", math.nan),
            "counterfactual_shift": found.get("score_shift", {}).get("mean", math.nan),
            "epsilon": epsilon,
            "seconds": seconds,
        }


def _measured(predictions: Any, settings: Any, rule: Any) -> dict[str, float]:
    """Accuracy and gaps of the labels of the largest score, or of a decision rule's answers."""
    from evaluation import evaluate, measure_decisions

    if rule is not None:
        decided = measure_decisions(predictions, rule)["after"]
        return {name: decided[name] for name in _FIGURES[:4]}
    measured = json.loads(evaluate(predictions, settings).to_json())
    sex = measured["fairness"]["attributes"]["sex"]
    return {
        "accuracy": measured["performance"]["accuracy"],
        "worst_group_accuracy": sex["worst"]["worst_group_accuracy"]["value"],
        **{name: sex["gaps"][name]["value"] for name in _FIGURES[2:4]},
    }


def main() -> None:
    """Prints the table, or JSON lines."""
    from configs.schema import Recipe
    from scripts.arguments import parse_recipe, recipe_parser

    names = sorted(path.stem for path in _FOLDER.glob("*.yaml"))
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fairness", description=__doc__)
    parser.add_argument("--recipes", nargs="+", choices=names, default=names)
    parser.add_argument("--seeds", type=int, default=3, help="runs of each recipe")
    parser.add_argument("--split", choices=("validation", "test"), default="test")
    parser.add_argument("--features", default=None, help="a file that keeps the encoder's work")
    parser.add_argument("--set", nargs="*", default=[], help="settings over the recipes', dotted")
    parser.add_argument("--json", action="store_true", help="print JSON lines")
    arguments = parser.parse_args()

    def recipe_of(name: str) -> Recipe:
        command = [str(_FOLDER / f"{name}.yaml"), *(f"--{s}" for s in arguments.set)]
        return parse_recipe(recipe_parser("train", "RECIPE.yaml", ""), command).recipe

    encoded = Encoded(recipe_of("none"), arguments.features)
    rows: dict[str, dict[str, list[float]]] = {}
    for name in arguments.recipes:
        runs = [
            encoded.run(recipe_of(name), seed, arguments.split) for seed in range(arguments.seeds)
        ]
        rows[name] = {figure: [run[figure] for run in runs] for figure in _FIGURES}
        if arguments.json:
            print(json.dumps({"recipe": name, "split": arguments.split, **rows[name]}), flush=True)
    if not arguments.json:
        _print_table(rows, arguments)


def _print_table(rows: dict[str, dict[str, list[float]]], arguments: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.table import Table

    title = f"census, {arguments.split}, {arguments.seeds} seeds: mean (standard deviation)"
    table = Table(title=title)
    table.add_column("recipe", no_wrap=True)  # many names begin alike
    for figure in _FIGURES:
        table.add_column(figure.replace("_", " "))
    for name, figures in rows.items():
        table.add_row(name, *(mean_and_spread(values) for values in figures.values()))
    Console(width=180).print(table)


def mean_and_spread(values: list[float], digits: int = 4) -> str:
    """Mean and, of several, standard deviation; "none" where the figure is infinite."""
    if not math.isfinite(values[0]):
        return "none"
    spread = f" ({statistics.stdev(values):.{digits}f})" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"


if __name__ == "__main__":
    main()
