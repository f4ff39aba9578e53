"""Small runs over people with groups, for whoever trains with a game."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from configs.schema import (
    AdversarySettings,
    ConstraintSettings,
    DataSettings,
    FairnessSettings,
    GroupDroSettings,
    MlpSettings,
    ModelSettings,
    OptimizerSettings,
    PrivacySettings,
    Recipe,
    ReleaseSettings,
    TableSettings,
    TrainingSettings,
)

RELEASES = ReleaseSettings(noise_multiplier=4.0)
PARITY = FairnessSettings(
    attribute="ward",
    constraint=ConstraintSettings("demographic_parity", slack=0.0, step_size=0.2),
)
ODDS = replace(PARITY, constraint=ConstraintSettings("equalized_odds", step_size=0.5))
DRO = FairnessSettings(attribute="ward", group_dro=GroupDroSettings(0.1, by_label=True))
ADVERSARY = FairnessSettings(attribute="ward", adversary=AdversarySettings("equalized_odds"))
NOISY_COUNTS = FairnessSettings(attribute="ward", reweighing=True, releases=RELEASES)
PRIVATE = PrivacySettings(enabled=True, epsilon=4.0, clipping_norm=1.0)
# The same for whoever opens several sessions and asks nothing about epsilon: to calibrate the noise
# takes longer than the run.
CALIBRATED = replace(PRIVATE, epsilon=None, noise_multiplier=1.5)


def privately(fairness: FairnessSettings) -> FairnessSettings:
    return replace(fairness, releases=RELEASES)


def written(path: Path, rows: int = 600) -> str:
    """People whose two numbers tell label and, as strongly, the ward."""
    rng = np.random.default_rng(0)
    ward, outcome = rng.integers(0, 2, rows), rng.integers(0, 2, rows)
    first = rng.normal(outcome + 0.8 * ward, 0.7)
    second = rng.normal(ward - 0.5, 1.0)
    lines = ["a,b,outcome,ward"]
    lines += [
        f"{x:.4f},{y:.4f},{('no', 'yes')[o]},w{w}"
        for x, y, o, w in zip(first, second, outcome, ward, strict=True)
    ]
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


def recipe_over(path: Path) -> Recipe:
    """Twenty steps over the people that are written to `path`, in epochs of four."""
    table = TableSettings(
        train=written(path), features=["a", "b"], label="outcome", groups=["ward"]
    )
    return Recipe(
        data=DataSettings(source="csv", table=table),
        model=ModelSettings(name="mlp", mlp=MlpSettings(hidden_units=[4])),
        training=TrainingSettings(
            steps=20,
            batch_size=120,
            physical_batch_size=60,
            checkpoint_every=2,
            optimizer=OptimizerSettings(learning_rate=0.05),
            seed=3,
        ),
    )


def changed(
    recipe: Recipe,
    fairness: FairnessSettings,
    privacy: PrivacySettings | None = None,
    **training: Any,
) -> Recipe:
    """The recipe with a mitigation, and privately where a guarantee is given."""
    return replace(
        recipe,
        fairness=fairness,
        privacy=PrivacySettings() if privacy is None else privacy,
        training=replace(recipe.training, **training),
    )
