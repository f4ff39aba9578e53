"""What `train` and `evaluate` measure of a model: in one way, so that the numbers are the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from configs.schema import Recipe, UserError, require

if TYPE_CHECKING:
    from data import Dataset
    from evaluation import Predictions
    from models import BuiltModel
    from training.session import Session


@dataclass(frozen=True)
class Answers:
    """What a model says to the examples of a split.

    Attributes:
        predictions: To the examples as they are, inferred groups among theirs.
        counterfactual: To changed ones, see `evaluation.measure_counterfactuals`; None where the
            recipe asks for none.
    """

    predictions: Predictions
    counterfactual: dict[str, Any] | None


def answers_on(split: str, dataset: Dataset, built: BuiltModel, recipe: Recipe) -> Answers:
    """Asks a model about a split.

    Args:
        split: `train`, `validation` or `test`.
        dataset: Whose split it is.
        built: The whole model, so that a run and its later evaluation agree to the last bit.
        recipe: What is measured.

    Raises:
        UserError: If the model's logits are not finite, or soft groups do not fit the split.
    """
    import data
    import evaluation

    settings, examples = recipe.evaluation, dataset.split(split)
    batches = data.batches_in_order(
        data.prepare(examples, built.preprocess, recipe.data.cache), settings.batch_size
    )
    predictions = evaluation.with_soft_groups(
        evaluation.predict_batches(built.model, batches, dataset.info, split),
        settings,
        examples.origin,
    )
    answer = evaluation.answer_raw(built.model, built.preprocess, settings.batch_size)
    changed = evaluation.measure_counterfactuals(answer, examples, settings)
    return Answers(predictions, changed)


def require_measurable(session: Session) -> None:
    """Refuses now what would otherwise be refused when the first epoch has been paid for."""
    import evaluation
    from evaluation.fairness.membership import crossings

    settings, info = session.recipe.evaluation, session.dataset.info
    if not len(session.dataset.test):
        raise UserError(
            f"The test split of {info.name} has no examples, so nothing could be measured. Name a "
            "test split that has some, or none and a data.test_fraction above 0."
        )
    known = [*info.groups, *settings.soft_groups]
    for attribute in settings.attributes or ():
        require(
            attribute in known,
            "evaluation.attributes",
            attribute,
            f"one of the data's group attributes {known}",
        )
    crossings(tuple(known), settings)
    for split in (session.dataset.test, session.dataset.validation):
        if len(split):
            evaluation.check_soft_groups(settings.soft_groups, split)
    evaluation.check_counterfactuals(settings.counterfactual, info.modality)
    require(
        settings.positive_label is None or settings.positive_label in info.label_names,
        "evaluation.positive_label",
        settings.positive_label,
        f"one of the labels {list(info.label_names)}",
    )
    patience = session.recipe.training.early_stopping_patience
    require(
        patience is None or len(session.validation) > 0,
        "training.early_stopping_patience",
        patience,
        "validation examples to watch (data.validation_fraction), or null",
    )
