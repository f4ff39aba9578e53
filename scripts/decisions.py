"""Joins training and evaluation where scores become answers: what is refused, fitted and kept."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from configs.schema import Recipe, SettingError, UserError, require

if TYPE_CHECKING:
    from data import Dataset
    from evaluation import Evaluation, Predictions
    from models import DecisionRule
    from training.privacy.ledger import Ledger
    from training.privacy.score_histogram import HistogramRelease
    from training.run_directory import RunDirectory
    from training.session import Session

# People of each label that a group needs, in standard deviations of the noise on their number.
_ENOUGH = 4.0


def require_decidable(recipe: Recipe, dataset: Dataset) -> None:
    """Refuses before training what could not be fitted after it.

    With privacy nothing here reads a validation example: a group that has no positive one keeps
    the threshold 0.5 (see `evaluation.fit_from_counts`), because to refuse it would tell.

    Raises:
        SettingError: For whatever in the `decision` section does not fit the data or the run.
    """
    settings, info = recipe.decision, dataset.info
    require(
        settings.epsilon is None or settings.thresholds.attribute is not None,
        "decision.epsilon",
        settings.epsilon,
        "decision.thresholds.attribute too, because without thresholds nothing is released",
    )
    if not settings.asked_for:
        return
    asking = "decision.abstain.width"
    value: Any = settings.abstain.width
    if settings.thresholds.attribute is not None:
        asking, value = "decision.thresholds.attribute", settings.thresholds.attribute
    labels = list(info.label_names)
    require(
        len(labels) == 2,
        asking,
        value,
        f"nothing, because only two labels have one score: {labels}",
    )
    attribute = settings.thresholds.attribute
    if attribute is None:
        return
    require(
        attribute in info.groups,
        "decision.thresholds.attribute",
        attribute,
        f"one of the data's group attributes {list(info.groups)}",
    )
    require(
        len(dataset.validation) > 0,
        "decision.thresholds.attribute",
        attribute,
        "validation examples to fit thresholds on (data.validation_fraction), or null",
    )
    if recipe.privacy.enabled:
        _require_private(recipe)
        return
    require(
        settings.epsilon is None,
        "decision.epsilon",
        settings.epsilon,
        "null, because privacy.enabled is false and thresholds are fitted without noise",
    )
    _require_both_labels(dataset, attribute)


def _require_private(recipe: Recipe) -> None:
    require(
        recipe.decision.epsilon is not None,
        "decision.epsilon",
        None,
        "a number > 0: privacy.epsilon covers the training examples, and thresholds of groups are "
        "fitted on the validation examples, whom they would give away",
    )
    monitors = {
        name
        for name, options in recipe.training.callbacks.items()
        if str(options.get("monitor", "val_loss")).startswith("val_")
        and name in ("EarlyStopping", "ModelCheckpoint", "ReduceLROnPlateau")
    }
    if recipe.training.early_stopping_patience is not None:
        monitors.add("early_stopping_patience")
    if monitors:
        raise SettingError(
            "decision.epsilon",
            recipe.decision.epsilon,
            f"no choice by validation measurements during training ({', '.join(sorted(monitors))}):"
            " the weights would then tell of validation examples, which no noise covers. Give "
            "training.steps instead",
        )


def _require_both_labels(dataset: Dataset, attribute: str) -> None:
    labels, groups = dataset.validation.labels, dataset.validation.groups[attribute]
    for index, name in enumerate(dataset.info.groups[attribute]):
        present = set(labels[groups == index].tolist())
        for label, label_name in enumerate(dataset.info.label_names):
            require(
                label in present,
                "decision.thresholds.attribute",
                attribute,
                f"an attribute whose every group has validation examples of both labels; {name!r} "
                f"has none of {label_name!r} (enlarge data.validation_fraction, or merge groups)",
            )


def fit_decision(session: Session, run: RunDirectory, ledger: Ledger | None) -> DecisionRule | None:
    """The run's rule: the one it keeps, or else fitted now and kept; None if none was asked for.

    With privacy the release is in the ledger before it is made, and made once.

    Raises:
        UserError: If it cannot be written.
    """
    settings = session.recipe.decision
    if not settings.asked_for:
        return None
    kept = read_decision(run)
    if kept is not None:
        return kept
    import evaluation
    from data import batches_in_order
    from training.files import write_atomically

    info = session.dataset.info
    positive = positive_index(session.recipe, info.label_names)
    found: dict[str, Any] = {"rule": None, "settings": asdict(settings), "fitted_on": None}
    if settings.thresholds.attribute is None:
        from models.decision_rule import AT_HALF, DecisionRule

        rule = DecisionRule(positive, None, {"": AT_HALF}, settings.abstain.width)
    else:
        batches = batches_in_order(session.validation, session.recipe.evaluation.batch_size)
        predictions = evaluation.predict_batches(session.model.trained, batches, info, "validation")
        found["fitted_on"] = {"split": "validation", "examples": len(predictions.labels)}
        if session.plan is None:
            rule = evaluation.fit_rule(predictions, settings, positive)
        else:
            if ledger is None:
                raise run.lost_ledger()
            rule, found["private"] = _fit_privately(session, predictions, positive, ledger)
    found["rule"] = rule.to_dict()
    write_atomically(run.decision, json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    return rule


def _fit_privately(
    session: Session, predictions: Predictions, positive: int, ledger: Ledger
) -> tuple[DecisionRule, dict[str, Any]]:
    import evaluation
    from training.privacy.score_histogram import score_histogram

    settings, release = session.recipe.decision, histogram_release(session)
    attribute = str(settings.thresholds.attribute)
    names = session.dataset.info.groups[attribute]
    exact = score_histogram(
        evaluation.scores_of(predictions, positive),
        predictions.labels == positive,
        predictions.groups[attribute],
        len(names),
        settings.bins,
    )
    ledger.record_validation(release.to_dict())
    noisy = release.release(exact, session.randomness)
    enough = _ENOUGH * release.noise_stddev * settings.bins**0.5
    rule, kept_at_half = evaluation.fit_from_counts(noisy, names, settings, positive, enough)
    return rule, {
        **release.to_dict(),
        "noise_stddev": release.noise_stddev,
        "groups_kept_at_half": list(kept_at_half),
        # Released, and so nobody's secret any more.
        "noisy_counts": noisy.round(3).tolist(),
    }


def histogram_release(session: Session) -> HistogramRelease:
    """The release of validation examples that a private run's recipe asks for.

    Raises:
        SettingError: If its delta or epsilon cannot be.
    """
    from training.privacy.score_histogram import HistogramRelease

    settings, plan = session.recipe.decision, session.plan
    if plan is None or settings.epsilon is None:
        raise SettingError("decision.epsilon", settings.epsilon, "a number > 0, with privacy")
    release = HistogramRelease.from_settings(
        settings.epsilon,
        settings.delta,
        str(plan.neighbours),
        settings.bins,
        len(session.dataset.validation),
    )
    _ = release.noise_multiplier  # calibrated now, so that an impossible epsilon is refused now
    return release


def positive_index(recipe: Recipe, label_names: tuple[str, ...]) -> int:
    """Index of the favourable label: as in `evaluation.positive_label`, else the last."""
    named = recipe.evaluation.positive_label
    return len(label_names) - 1 if named is None else label_names.index(named)


def read_decision(run: RunDirectory) -> DecisionRule | None:
    """The rule that the run keeps; None if it keeps none.

    Raises:
        UserError: If its file is damaged.
    """
    from models.decision_rule import DecisionRule

    if not run.decision.exists():
        return None
    try:
        found = json.loads(run.decision.read_text(encoding="utf-8"))
        return DecisionRule.from_dict(found["rule"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{run.decision}: cannot be read ({error}).") from error


def with_decisions(
    measured: Evaluation, predictions: Predictions, rule: DecisionRule | None, run: RunDirectory
) -> Evaluation:
    """An evaluation with what the run's rule does to these predictions, if it has one."""
    import evaluation

    if rule is None:
        return measured
    found = json.loads(run.decision.read_text(encoding="utf-8"))
    section = {
        **evaluation.measure_decisions(predictions, rule, measured.fairness["minimum_group_size"]),
        "settings": found["settings"],
        "fitted_on": found["fitted_on"],
        "private": found.get("private"),
    }
    return replace(measured, further={**measured.further, "decisions": section})
