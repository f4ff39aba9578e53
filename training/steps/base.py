"""What every step shares: one logical batch in, one optimizer update out.

A logical batch may be many physical ones. Each adds its gradient sum (`add`); the last also
releases the total and applies it (`finish`). Written for replicas: sums are all-reduced once per
logical batch, and every replica then does the same arithmetic on the same numbers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from training.fairness import GroupWeights, Player
from training.objective import Terms
from training.privacy.clip_watch import WatchedCounts
from training.privacy.clipping import PerExampleLoss
from training.privacy.mechanisms import Draws
from training.privacy.noise_memory import NoiseMemory
from training.randomness import Randomness
from training.steps.accumulation import Accumulation
from training.steps.batch_loss import BatchLoss
from training.steps.compilation import CompiledPart
from training.steps.drawn_noise import Noise, memory_specs, noise_of, noise_specs
from training.steps.groups import StepGroup, StepPrograms
from training.steps.totals import StepTotals, over_replicas
from training.steps.update import build_update
from training.steps.weight_penalties import penalty_gradients


class TrainingStep(ABC):
    """What plain and private steps share: accumulation, reduction, penalties, update.

    Args:
        model: The model to train, built under `strategy`.
        loss: Per-example loss.
        optimizer: Built on `model.trainable_variables` here.
        strategy: Where the step runs.
        accumulates: Whether a logical batch can need more than one physical batch.
        l2: L2 penalty on weight matrices; looks at no example.
        jit_compile: Compile with XLA what `CompiledPart` says of the strategy.
        group_weights: Weights of examples by group and label.
        terms: What is added to the loss beside unfairness.
        steps_per_execution: Most steps that `take_group` takes in one call.
        player: A second player, who prices examples by group and label.

    Attributes:
        compiled: What of the step XLA compiles.
    """

    # Of mechanisms whose noise builds on earlier noise; none without such a mechanism.
    _memory: NoiseMemory | None = None
    # Shapes of what is summed over the logical batch beside the gradients.
    _further_shapes: tuple[tuple[int, ...], ...] = ()

    def __init__(
        self,
        model: keras.Model,
        loss: PerExampleLoss,
        optimizer: keras.optimizers.Optimizer,
        strategy: tf.distribute.Strategy,
        *,
        accumulates: bool,
        l2: float = 0.0,
        jit_compile: bool = False,
        group_weights: GroupWeights | None = None,
        terms: Terms | None = None,
        steps_per_execution: int = 1,
        player: Player | None = None,
    ):
        self._steps_per_execution = steps_per_execution
        self._model, self._optimizer, self._strategy = model, optimizer, strategy
        self._loss = BatchLoss(loss, group_weights, terms or Terms(), player)
        self.player, self._l2 = player, l2
        self._variables = model.trainable_variables
        with strategy.scope():
            optimizer.build(self._variables)
            shapes = [*(tuple(v.shape) for v in self._variables), *self._further_shapes]
            self._accumulated = Accumulation(shapes if accumulates else [])
        self._update = build_update(optimizer, self._variables, strategy)

        self.compiled = CompiledPart.of(strategy, jit_compile=jit_compile)
        self._sum = self._gradient_sum
        if self.compiled is CompiledPart.GRADIENTS:
            self._sum = tf.function(self._gradient_sum, autograph=False, jit_compile=True)

        def program(function: Callable[..., Any]) -> Any:
            # Without autograph, errors reach the user as they were raised.
            return tf.function(
                lambda *arguments: over_replicas(strategy, strategy.run(function, arguments)),
                autograph=False,
                jit_compile=self.compiled is CompiledPart.STEP,
            )

        self._add = program(self._replica_add)
        self._finish_alone = program(self._replica_finish)
        self._finish_accumulated = program(
            lambda batch, noise: self._replica_finish(batch, noise, accumulated=True)
        )

    @abstractmethod
    def _gradient_sum(self, batch: dict[str, Any]) -> tuple[list[tf.Tensor], dict[str, tf.Tensor]]:
        """Gradients (and further sums) over this replica's examples, and what to report."""

    @abstractmethod
    def _release(self, sums: list[tf.Tensor], divisor: tf.Tensor, noise: Noise) -> list[tf.Tensor]:
        """From the sums over the whole logical batch to what, once divided, is applied."""

    @abstractmethod
    def _divisor(self, examples: tf.Tensor) -> tf.Tensor:
        """What a released sum is divided by, float32 ().

        Args:
            examples: How many real examples the logical batch has, float32 ().
        """

    @property
    def state(self) -> list[tf.Variable]:
        """What a checkpoint must keep, beside model and optimizer, for the same next step."""
        return [] if self.player is None else self.player.state

    def of_groups(self) -> dict[str, float]:
        """What a second player holds and has seen, by name; see `Player.named`."""
        return {} if self.player is None else self.player.named()

    def released(self) -> dict[str, float]:
        """What the releases so far made known beside the weights; epsilon covers it."""
        return {}

    def begin_epoch(self) -> None:  # noqa: B027 (steps that count nothing have nothing to do)
        """To be called before the first step of an epoch."""

    def watched(self) -> WatchedCounts | None:
        """Who was clipped so far; None where nobody counts."""
        return None

    def draws(self, step: int, randomness: Randomness) -> Draws:
        """What `finish` takes for the noise of `step`; a plain step ignores it."""
        return Draws(np.zeros((1, 1, 2), np.int64), np.zeros(1, np.float32))

    def add(self, batch: Any) -> StepTotals:
        """Adds a physical batch to the logical one."""
        return StepTotals.read(self._add(batch))

    def finish(self, batch: Any, draws: Draws, *, accumulated: bool) -> StepTotals:
        """Adds the last physical batch and updates the weights.

        Args:
            batch: The physical batch, one per replica.
            draws: From `draws` for the step about to be taken.
            accumulated: Whether `add` was called for this logical batch.
        """
        if self._memory is not None:
            self._memory.advance(draws)
        run = self._finish_accumulated if accumulated else self._finish_alone
        return StepTotals.read(run(batch, noise_of(draws)))

    def take_group(
        self, batches: Iterator[Any], draws: Sequence[Draws], counts: Sequence[int]
    ) -> list[StepTotals]:
        """Takes several whole steps in one call: the same as `add` and `finish` of each.

        Args:
            batches: A `tf.data` or distributed iterator.
            draws: From `draws` for the steps about to be taken, all of them paid for.
            counts: Physical batches of each step.

        Returns:
            The totals of every physical batch, in order.
        """
        return self._group.take(batches, draws, counts)

    @cached_property
    def _group(self) -> StepGroup:
        remember = None if self._memory is None else self._memory.remember
        programs = StepPrograms(self._add, self._finish_alone, self._finish_accumulated, remember)
        return StepGroup(programs, self._steps_per_execution)

    def recall(self, steps: int, randomness: Randomness) -> None:
        """To be called once, before the first step, in a run that has taken `steps` before.

        Args:
            steps: Steps taken before.
            randomness: The root that they were taken with.
        """
        if self._memory is not None:
            self._memory.recall(steps, lambda step: self.draws(step, randomness))

    def trace(self, batch: Any) -> list[tf.Graph]:
        """Traces the step for batches like `batch`, so that a refused model is refused now.

        Args:
            batch: The feed's `element_spec`.

        Returns:
            The graphs of the programs that a step of one physical batch runs.

        Raises:
            UserError: If the model cannot be trained privately; names layer and remedy.
        """
        draws = self._some_draws()
        traced = [self._finish_alone.get_concrete_function(batch, noise_specs(draws)).graph]
        if self._memory is not None:
            remember = self._memory.remember.get_concrete_function(*memory_specs(draws))
            traced.append(remember.graph)
        return traced

    def replica_programs(self, batch: Any) -> list[tuple[Callable[..., Any], Sequence[Any]]]:
        """What a replica runs for a step, each with specifications of its arguments.

        Args:
            batch: As in `trace`; on one device.
        """

        def finish(batch: Any, noise: Noise) -> Any:
            return self._replica_finish(batch, noise, accumulated=bool(self._accumulated.sums))

        draws = self._some_draws()
        step = (finish, (batch, noise_specs(draws)))
        if self._memory is None:
            return [step]
        return [step, (self._memory.advance_replica, memory_specs(draws))]

    def _some_draws(self) -> Draws:
        """Draws of the shapes that all steps have."""
        return self.draws(0, Randomness(0, reproducible=True))

    def finalize(self) -> None:
        """To be called once, after the last step: the optimizer's last word on the weights.

        With `use_ema` it replaces them by their moving average; most optimizers have none.
        """
        with self._strategy.scope():
            self._optimizer.finalize_variable_values(self._variables)

    def weights_are_finite(self) -> bool:
        """Whether every trainable weight is a number."""
        return all(bool(np.isfinite(v.numpy()).all()) for v in self._variables)

    def _replica_add(self, batch: dict[str, Any]) -> dict[str, tf.Tensor]:
        sums, report = self._sum(batch)
        self._accumulated.add(sums, report["examples"])
        return report

    def _replica_finish(
        self,
        batch: dict[str, Any],
        noise: Noise,
        accumulated: bool = False,
    ) -> dict[str, tf.Tensor]:
        sums, report = self._sum(batch)
        examples = report["examples"]
        if accumulated:
            sums, examples = self._accumulated.with_last(sums, examples)
        if self._strategy.num_replicas_in_sync > 1:
            context = tf.distribute.get_replica_context()
            sums, examples = context.all_reduce(tf.distribute.ReduceOp.SUM, (sums, examples))
        divisor = self._divisor(examples)
        released = self._release(sums, divisor, noise)
        self._update(released, divisor, penalty_gradients(self._variables, self._l2))
        if accumulated:
            self._accumulated.clear()
        return report
