"""What a recipe's privacy asks of data and model, settled before anything costly.

Apart from the session, because `sterling check-private` makes the same plan without training: what
it finds is what a run would be refused for, as long as both come from here.
"""

from __future__ import annotations

import data
from configs.schema import Recipe, TrainingSettings
from data import Dataset, PreparedSplit
from models import BuiltModel
from training.calibration import resolved
from training.fairness import Preparation
from training.length import run_length
from training.losses import recipe_loss
from training.privacy.clip_watch import ClipWatch
from training.privacy.group_releases import GroupReleases
from training.privacy.inspection import probe, problems_of
from training.privacy.plan import PrivacyPlan
from training.privacy.problems import refuse
from training.unit_of_privacy import records_of

# Enough to see whether one example's output depends on another's.
_PROBED_EXAMPLES = 3


def plan_ahead(recipe: Recipe, dataset: Dataset) -> PrivacyPlan:
    """The plan that `open_session` would make, without a model; for a recipe with privacy.

    Raises:
        UserError: If there is none: a value is impossible, or nothing is proven about the parts.
    """
    records, unit = records_of(recipe, dataset)
    preparation = Preparation.of(recipe.fairness, dataset)

    def steps_of(settings: TrainingSettings, count: int) -> int:
        return run_length(settings, count, unit).steps

    recipe = resolved(recipe, records, steps_of, preparation.shares)
    steps = steps_of(recipe.training, records)
    return plan_of(recipe, dataset, preparation, records, steps)


def plan_of(
    recipe: Recipe, dataset: Dataset, preparation: Preparation, records: int, steps: int
) -> PrivacyPlan:
    """The plan of a recipe whose noise and length are settled.

    Args:
        recipe: As `resolved` gives it.
        dataset: Names the groups.
        preparation: Who is drawn, and in which version.
        records: Training examples or users.
        steps: Optimizer steps in all.

    Raises:
        UserError: As `plan_ahead`.
    """
    return PrivacyPlan.from_settings(
        recipe.privacy,
        num_examples=records,
        batch_size=recipe.training.batch_size,
        steps=steps,
        shares=preparation.shares,
        watch=ClipWatch.of(recipe.privacy.clipping.watch, dataset.info.groups),
        versions=preparation.rows_per_record,
        counterparts=preparation.counterparts,
        group_releases=GroupReleases.from_settings(
            recipe.fairness, records, recipe.training.batch_size
        ),
    )


def look_over(recipe: Recipe, dataset: Dataset, built: BuiltModel, examples: PreparedSplit) -> None:
    """Refuses a model that cannot be private, before anything costly; names every problem.

    Args:
        recipe: Decides the loss.
        dataset: Names the labels.
        built: The model.
        examples: The first of them are run.

    Raises:
        UserError: Naming layer and remedy.
    """
    loss = recipe_loss(recipe, dataset.info.label_names)
    refuse(problems_of(built.model, loss))
    probe(built.model, loss, next(iter(data.batches_in_order(examples, _PROBED_EXAMPLES))))
