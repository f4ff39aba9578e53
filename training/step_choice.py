"""Which step a session's recipe calls for, its optimizer, and whether XLA can compile it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf

from configs.schema import Recipe
from training.fairness import Player
from training.losses import recipe_loss
from training.objective import Terms
from training.optimizers import build_optimizer
from training.privacy.clip_watch import ClipWatch
from training.privacy.plan import PrivacyPlan
from training.steps import AdversarialStep, PlainStep, PrivateStep, TrainingStep
from training.steps.compilation import CompiledPart
from training.steps.loss_scaling import with_loss_scale
from training.strategy import is_tpu
from training.xla_operations import TPU, compiler_here, obstacles_of, refuse_obstacles

if TYPE_CHECKING:
    from training.session import Session


def step_of(
    session: Session, *, accumulates: bool
) -> tuple[keras.optimizers.Optimizer, TrainingStep]:
    """The session's optimizer and step: private, against an adversary, or plain.

    Args:
        session: What is to be trained, and how.
        accumulates: Whether a logical batch may be several physical ones.

    Raises:
        UserError: For an optimizer or a model that cannot be trained so.
    """
    recipe, strategy, mitigation = session.recipe, session.strategy, session.mitigation
    settings = recipe.training
    with strategy.scope():
        optimizer = build_optimizer(settings.optimizer, session.length.steps)
        if session.plan is None:
            optimizer = with_loss_scale(optimizer, session.model.trained)
    loss = recipe_loss(recipe, session.dataset.info.label_names)
    common: dict[str, Any] = {
        "accumulates": accumulates,
        "l2": settings.l2,
        "jit_compile": settings.jit_compile,
        "group_weights": mitigation.weights,
        "terms": Terms.of(recipe.objective),
        "steps_per_execution": settings.steps_per_execution,
    }
    if mitigation.game is not None:
        common["player"] = Player(mitigation.game, strategy)
    arguments = (session.model.trained, loss, optimizer, strategy)
    if session.plan is not None:
        budget = recipe.privacy.memory_budget
        return optimizer, PrivateStep(
            *arguments,
            plan=session.plan,
            memory_bytes=None if budget is None else 1e9 * budget,
            watch=ClipWatch.of(recipe.privacy.clipping.watch, session.dataset.info.groups),
            **common,
        )
    if mitigation.adversary is not None:
        return optimizer, AdversarialStep(*arguments, adversary=mitigation.adversary, **common)
    return optimizer, PlainStep(*arguments, penalty=mitigation.penalty, **common)


def needs_one_order(recipe: Recipe, plan: PrivacyPlan | None) -> bool:
    """Whether a step that is run again must give the same to the last bit."""
    return recipe.training.seed is not None or (plan is not None and plan.needs_one_root)


def refuse_uncompilable(session: Session, step: TrainingStep, graphs: Sequence[tf.Graph]) -> None:
    """Refuses a step that XLA is to compile and cannot.

    Args:
        session: Says where it is to run, and whether in one order.
        step: Says what of it is to be compiled.
        graphs: From its `trace`.

    Raises:
        UserError: Names the first operation, its layer and the remedy.
    """
    if is_tpu(session.strategy):
        compiler = TPU
    elif step.compiled is CompiledPart.NOTHING:
        return
    else:
        compiler = compiler_here(
            in_one_order=needs_one_order(session.recipe, session.plan),
            within=step.compiled is CompiledPart.GRADIENTS,
        )
    refuse_obstacles(obstacles_of(graphs, session.model.trained, compiler), compiler)
