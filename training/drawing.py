"""Which rows form each step: from a recipe to its batches.

Who is drawn is the plan's sampling (or a shuffle, without privacy). Around it lie the users whose
rows stay together, the groups that are drawn alike and the versions that an example comes as.
"""

from __future__ import annotations

import math

import numpy as np

from configs.schema import Recipe, TrainingSettings
from data import Dataset
from training.batching import Batching, Sampler, ShuffledSampler
from training.fairness import AllVersions, BalancedSampler, Preparation, RandomVersions
from training.privacy.plan import PrivacyPlan
from training.randomness import Randomness
from training.unit_of_privacy import users_of


def batching_of(
    recipe: Recipe,
    plan: PrivacyPlan | None,
    dataset: Dataset,
    preparation: Preparation,
    randomness: Randomness,
    replicas: int,
    versions: np.ndarray | None = None,
) -> Batching:
    """The physical batches of a run.

    Args:
        recipe: What decides it.
        plan: Its privacy plan; None without privacy.
        dataset: Whose training split is drawn from.
        preparation: Groups that are drawn alike, and whether versions come together.
        randomness: Root of the draws.
        replicas: Replicas in all.
        versions: int64 (examples, versions), the rows of each training example's versions; None
            where each has one row, its own.

    Raises:
        SettingError, UserError: If the data do not say whose an example is.
    """
    people = dataset.train
    rows = preparation.rows_per_record if plan is None else plan.rows_per_record
    size = physical_size(
        recipe.training,
        private=plan is not None,
        examples=len(people) if plan is None else plan.num_examples,
        replicas=replicas,
        capacity=None if plan is None else plan.sampling.capacity,
        rows=rows,
    )
    balance = preparation.balance
    cells = None if balance is None else balance.cells_of(people.groups, people.labels)
    sampler: Sampler
    if plan is not None:
        sampler = plan.sampler(randomness, users_of(recipe, dataset), cells)
    elif cells is not None:
        sampler = BalancedSampler(cells, recipe.training.batch_size, randomness)
    else:
        sampler = ShuffledSampler(len(people), recipe.training.batch_size, randomness)
    if versions is not None and preparation.together:
        sampler = AllVersions(sampler, versions)
    elif versions is not None:
        sampler = RandomVersions(sampler, versions, randomness, preparation.rate)
    return Batching(sampler, size, replicas, rows)


def physical_size(
    settings: TrainingSettings,
    *,
    private: bool,
    examples: int,
    replicas: int,
    capacity: int | None = None,
    rows: int = 1,
) -> int:
    """Rows of a physical batch over all replicas, a multiple of `replicas` times `rows`.

    `capacity`: the most examples that a step can have, where sampling bounds them. With several
    `rows` a user, examples and capacity count users.
    """
    size = settings.physical_batch_size
    if size is not None:
        size = -(-size // rows)
    else:
        size = capacity or settings.batch_size
        if private and capacity is None:
            # Two standard deviations of room: 98 % of Poisson draws fit one physical batch.
            size = min(examples, size + 2 * math.isqrt(size) + 1)
            size = min(examples, -(-size // 8) * 8)
    return -(-min(size, max(examples, 1)) // replicas) * replicas * rows
