"""From a recipe to everything a run needs: data, model, plan, step and loop, joined.

Knows nothing of evaluation: what is measured while training runs enters as Keras callbacks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

import data
import models
from configs.schema import Recipe, require
from data import Dataset, PreparedSplit
from data.service import require_service
from models import BuiltModel
from training.calibration import resolved
from training.checkpoints import Checkpoints
from training.drawing import batching_of
from training.fairness import Mitigation, Preparation, PrivateTables
from training.feeding import ReplicaFeed
from training.frozen_features import count_computed, fits_in_memory, give_up, through_prefix
from training.length import Length, run_length
from training.loop import Loop
from training.losses import recipe_loss
from training.one_root import OneRoot
from training.privacy.half_precision import use_whole_float32
from training.privacy.ledger import Ledger
from training.privacy.measured_precision import require_whole_float32
from training.privacy.plan import PrivacyPlan
from training.randomness import Randomness
from training.recipe_plan import look_over, plan_of
from training.run_directory import RunDirectory
from training.step_choice import needs_one_order, refuse_uncompilable, step_of
from training.step_clock import StepClock
from training.steps import TrainingStep
from training.strategy import has_accelerators, is_tpu, resolve_strategy
from training.stream_names import release_identity, shared_randomness
from training.unit_of_privacy import records_of
from training.workers import Workers


@dataclass(frozen=True)
class Model:
    """A built model and the part of it that training runs.

    Attributes:
        built: The whole model with its preprocessor.
        prefix: The frozen part that was computed ahead; None where nothing was.
        trained: What remains: the model the step and the validation run.
    """

    built: BuiltModel
    prefix: keras.Model | None
    trained: keras.Model


@dataclass(frozen=True)
class Session:
    """A run, ready to go.

    Attributes:
        recipe: What decides it.
        dataset: The three splits.
        model: The model.
        preparation: Who is drawn, and in which version, for fairness.
        mitigation: What is minimised for fairness.
        plan: The privacy plan; None without privacy.
        length: Steps and epochs.
        workers: The processes and devices it is spread over.
        randomness: Root of all random choices.
        train: Training examples as the trained part takes them.
        validation: Validation examples, likewise.
        versions: int64 (examples, versions), rows of `train` that are versions of each training
            example; None where each has one row, its own.
    """

    recipe: Recipe
    dataset: Dataset
    model: Model
    preparation: Preparation
    mitigation: Mitigation
    plan: PrivacyPlan | None
    length: Length
    workers: Workers
    randomness: Randomness
    train: PreparedSplit
    validation: PreparedSplit
    versions: np.ndarray | None = None

    @property
    def strategy(self) -> tf.distribute.Strategy:
        return self.workers.strategy

    def loop(
        self,
        run: RunDirectory,
        callbacks: Sequence[keras.callbacks.Callback],
        ledger: Ledger | None,
        verbose: int = 1,
    ) -> Loop:
        """The training loop of this session, saving into `run`; nothing is written yet.

        Raises:
            UserError: For an optimizer, a class weight or a model that cannot be trained so.
        """
        settings = self.recipe.training
        replicas = self.strategy.num_replicas_in_sync
        batching = batching_of(
            self.recipe,
            self.plan,
            self.dataset,
            self.preparation,
            self.randomness,
            replicas,
            self.versions,
        )
        size = batching.size
        optimizer, step = step_of(
            self,
            accumulates=self.plan is not None
            or size < settings.batch_size * batching.rows_per_record,
        )
        feed = ReplicaFeed(self.train, batching, self.strategy, self.recipe.data.service)
        graphs = step.trace(feed.element_spec)
        refuse_uncompilable(self, step, graphs)
        model = self.model.built.model
        # The whole model carries the optimizer, because that is where Keras callbacks look.
        model.optimizer = optimizer
        return Loop(
            model=model,
            step=step,
            length=self.length,
            batching=batching,
            # Several steps in one call take their batches within TensorFlow.
            feed=feed.ahead if settings.steps_per_execution == 1 else feed,
            randomness=self.randomness,
            checkpoints=Checkpoints(
                run.checkpoints, model, optimizer, settings.keep_checkpoints, step.state
            ),
            ledger=ledger,
            release_identity=release_identity(
                self.randomness,
                self.dataset,
                size=size,
                replicas=replicas,
                steps=self.length.steps,
            ),
            one_root=OneRoot.of(self.plan, self.randomness, run, keeps=self.workers.is_chief),
            callbacks=callbacks,
            checkpoint_every=settings.checkpoint_every,
            steps_per_execution=settings.steps_per_execution,
            verbose=verbose if self.workers.is_chief else 0,
            workers=self.workers,
            clock=StepClock(lambda: count_computed(self.train)),
            give_up=lambda: give_up(self.train),
            before_step=self._before_step(step, ledger),
        )

    def _before_step(
        self, step: TrainingStep, ledger: Ledger | None
    ) -> Callable[[int], None] | None:
        """Releases noisy tables of groups, if the plan has any."""
        if self.plan is None or self.plan.group_releases is None or step.player is None:
            return None
        if ledger is None:
            raise ValueError("Noisy tables of groups need a ledger to be recorded in.")
        return PrivateTables(
            releases=self.plan.group_releases,
            player=step.player,
            model=self.model.trained,
            loss=recipe_loss(self.recipe, self.dataset.info.label_names),
            examples=self.train,
            num_examples=len(self.dataset.train),
            batch_size=self.recipe.evaluation.batch_size,
            ledger=ledger,
            randomness=self.randomness,
            workers=self.workers,
        ).before


def build_model(recipe: Recipe, dataset: Dataset) -> BuiltModel:
    """The recipe's model for this dataset."""
    return models.build(
        recipe.model,
        num_classes=len(dataset.info.label_names),
        modality=dataset.info.modality,
        input_shape=dataset.info.input_shape,
        seed=recipe.training.seed,
    )


def open_session(
    recipe: Recipe, run: RunDirectory | None = None, *, for_tpu: bool = False
) -> Session:
    """Loads the data, builds the model and the plan; writes nothing.

    Args:
        recipe: What decides the run.
        run: Where it may have been begun before; none for a new one.
        for_tpu: It is only to be looked at, as for a TPU.

    Raises:
        UserError: For whatever in the recipe cannot be carried out.
    """
    strategy = resolve_strategy(recipe.training.strategy)
    workers = Workers(strategy)
    keras.config.set_dtype_policy(recipe.training.precision)
    dataset = data.load(recipe.data)
    records, unit = records_of(recipe, dataset)
    preparation = Preparation.of(recipe.fairness, dataset)
    if preparation.swaps is not None:
        dataset = data.naming_versions(dataset, preparation.swaps)
    recipe = resolved(
        recipe,
        records,
        lambda settings, count: run_length(settings, count, unit).steps,
        preparation.shares,
    )
    settings = recipe.training
    files = sorted(dataset.info.provenance.sha256.items())
    workers.require_same(
        hashlib.sha256(repr((recipe, len(dataset.train), files)).encode()).hexdigest(),
        "recipe and data",
    )
    length = run_length(settings, records, unit)
    plan = None
    if recipe.privacy.enabled:
        plan = plan_of(recipe, dataset, preparation, records, length.steps)
        use_whole_float32()
        if has_accelerators():
            require_whole_float32(strategy)
    # A TPU's programs add up in one order by themselves, and under this setting XLA would not
    # compile the gradient of max pooling.
    if needs_one_order(recipe, plan) and not (for_tpu or is_tpu(strategy)):
        # Nothing here draws from a global generator, which is therefore left alone; the sums
        # that TensorFlow adds up in no fixed order are what this is for.
        tf.config.experimental.enable_op_determinism()
    mitigation = Mitigation.of(recipe.fairness, dataset, recipe.evaluation.positive_label, plan)
    if recipe.data.service is not None:
        require_service(recipe.data.service, dataset.train)
    with strategy.scope():
        built = build_model(recipe, dataset)
    randomness = shared_randomness(recipe, dataset, built.origin.get("sha256", ""), workers, run)
    people, versions = dataset.train, None
    if preparation.swaps is not None:
        people, versions = preparation.swaps.applied_to(people)
    train = data.prepare(people, built.preprocess, recipe.data.cache)
    validation = data.prepare(dataset.validation, built.preprocess, recipe.data.cache)
    if plan is not None:
        look_over(recipe, dataset, built, validation if len(validation) else train)
    prefix, trained = models.split_frozen_prefix(built)
    examples = len(train) + len(validation)
    if prefix is not None and fits_in_memory(prefix, examples, settings.cache_frozen_gb * 1e9):
        require(
            recipe.data.service is None,
            "data.service",
            recipe.data.service,
            "training.cache_frozen_gb: 0, or null: a model whose frozen layers run once for each "
            "example reads each image once",
        )
        train, validation = through_prefix(train, prefix), through_prefix(validation, prefix)
    else:
        prefix, trained = None, built.model
    return Session(
        recipe=recipe,
        dataset=dataset,
        model=Model(built, prefix, trained),
        preparation=preparation,
        mitigation=mitigation,
        plan=plan,
        length=length,
        workers=workers,
        randomness=randomness,
        train=train,
        validation=validation,
        versions=versions,
    )
