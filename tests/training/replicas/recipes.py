"""Recipes of every kind of step, each on one device and on several replicas."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from configs.schema import (
    ClippingSettings,
    DataSettings,
    MlpSettings,
    ModelSettings,
    OptimizerSettings,
    PrivacySettings,
    TableSettings,
)
from tests.training.conftest import BASE
from tests.training.replicas.comparison import (
    between_replicas,
    compare,
    largest_difference,
    on_replica,
    recipe_of,
    trained,
    under,
)
from tests.training.test_users import write_people

# A multiplier of zero is no privacy, and refused; 20 steps with this one move no weight by 1e-6.
NO_NOISE = 1e-5
PRIVATE = PrivacySettings(enabled=True, noise_multiplier=0.5)
# Adam would blow rounding of vanishing gradients up to the size of its rate.
SGD = OptimizerSettings(name="SGD", learning_rate=0.1)
MOMENTUM = replace(SGD, options={"momentum": 0.9})


def kinds(
    steps: int,
    privacies: dict[str, PrivacySettings],
    physicals: tuple[int | None, ...] = (None, 16),
) -> dict[str, Any]:
    """Every kind of step, each logical batch as one physical batch and as several."""
    results: dict[str, Any] = {}
    for name, privacy in privacies.items():
        for physical in physicals:
            recipe = recipe_of(MOMENTUM, steps=steps, physical_batch_size=physical)
            kind = name if physical is None else f"{name}, accumulated"
            results[kind] = compare(replace(recipe, privacy=privacy))
    return results


def noiseless(steps: int) -> dict[str, Any]:
    """Private steps whose noise cannot hide anything."""
    silent = replace(PRIVATE, noise_multiplier=NO_NOISE)
    return kinds(steps, {"private, noiseless": silent})


def dropout() -> dict[str, float]:
    """Dropout differs by replica, so that only the replicas can be compared."""
    spread = under("mirrored", replace(BASE, privacy=PRIVATE))
    with tempfile.TemporaryDirectory() as folder:
        model = trained(spread, Path(folder) / "spread")
    return {"replicas": between_replicas(model.trainable_variables)}


def bounded_updates(steps: int, options: Sequence[str]) -> dict[str, Any]:
    """Optimizers that bound the gradient themselves, by less than its norm."""
    results: dict[str, Any] = {}
    for option in options:
        bound = 0.005 if option == "clipvalue" else 0.05
        sgd = OptimizerSettings(name="SGD", learning_rate=1.0, options={option: bound})
        results[f"plain, {option}"] = compare(recipe_of(sgd, steps=steps))
    return results


def adaptive() -> dict[str, Any]:
    """Replicas that share a moving bound, with XLA and without."""
    clipping = ClippingSettings("adaptive", count_share=0.1)
    recipe = replace(
        recipe_of(SGD, steps=5, physical_batch_size=16),
        privacy=replace(PRIVATE, clipping=clipping),
    )
    compiled = replace(recipe, training=replace(recipe.training, jit_compile=True))
    return {"private, adaptive": compare(recipe), "private, XLA": compare(compiled)}


def users(physical: int | None) -> dict[str, Any]:
    """Users of several examples each, whole on one replica or the other, bounded and noised."""
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # the path of the people names the random streams
        table = TableSettings(train=str(write_people(Path("people.csv"))), features=["a", "b"])
        recipe = replace(
            BASE,
            data=DataSettings(source="csv", table=table, user="who"),
            model=ModelSettings(name="mlp", mlp=MlpSettings(hidden_units=[6])),
            privacy=replace(PRIVATE, clipping_norm=0.2, unit="user", examples_per_user=3),
            training=replace(
                BASE.training,
                steps=6,
                batch_size=8,
                physical_batch_size=physical,
                optimizer=MOMENTUM,
            ),
        )
        return {"users": compare(recipe)}


def float16(steps: int) -> dict[str, float]:
    """Plain steps with a loss scale: rounding differs by replica's share, the replicas must not."""
    sgd = replace(SGD, options={"clipnorm": 0.5})
    return compare(recipe_of(sgd, steps=steps, precision="mixed_float16"))


def groups(steps: int, per_execution: int) -> dict[str, Any]:
    """Steps taken several in a call against steps taken one by one, on the replicas alike."""
    found = {}
    for name, privacy, physical in (
        ("plain", PrivacySettings(), None),
        ("private, accumulated", PRIVATE, 40),
    ):
        training = replace(BASE.training, steps=steps, physical_batch_size=physical)
        single = under("mirrored", replace(BASE, privacy=privacy, training=training))
        several = replace(single.training, steps_per_execution=per_execution)
        with tempfile.TemporaryDirectory() as folder:
            ones = trained(single, Path(folder) / "1").trainable_variables
            groups = trained(replace(single, training=several), Path(folder) / "n")
        ends = groups.trainable_variables
        found[name] = {
            "single steps": largest_difference(on_replica(0, ends), [v.numpy() for v in ones]),
            "replicas": between_replicas(ends),
        }
    return found
