"""What every step shares: one logical batch in, one optimizer update out.

A logical batch may be many physical ones. Each adds its gradient sum (`add`); the last also
releases the total and applies it (`finish`). Written for replicas: sums are all-reduced once per
logical batch, and every replica then does the same arithmetic on the same numbers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from training.fairness import GroupWeights, Player
from training.objective import Terms, confidence
from training.privacy.clip_watch import CountKeeper, WatchedCounts
from training.privacy.clipping import PerExampleLoss
from training.privacy.mechanisms import Draws
from training.privacy.noise_memory import NoiseMemory
from training.randomness import Randomness
from training.steps.compilation import CompiledPart
from training.steps.groups import StepGroup, StepPrograms
from training.steps.totals import StepTotals
from training.steps.update import build_update

# A step's `Draws` inside the graph: seeds, coefficients and slot.
Noise: TypeAlias = "tuple[tf.Tensor, tf.Tensor, tf.Tensor]"


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
    # Of a step that counts who is clipped.
    _keeper: CountKeeper | None = None
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
        self._model, self._loss, self._optimizer = model, loss, optimizer
        self._strategy, self._l2 = strategy, l2
        self._group_weights, self.player = group_weights, player
        self._terms = terms or Terms()
        self._variables = model.trainable_variables
        with strategy.scope():
            optimizer.build(self._variables)
            self._accumulated = (
                [
                    *(self._local_total(tuple(v.shape)) for v in self._variables),
                    *(self._local_total(shape) for shape in self._further_shapes),
                ]
                if accumulates
                else []
            )
            self._accumulated_examples = self._local_total(())
        self._update = build_update(optimizer, self._variables, strategy)

        self.compiled = CompiledPart.of(strategy, jit_compile=jit_compile)
        self._sum = self._gradient_sum
        if self.compiled is CompiledPart.GRADIENTS:
            self._sum = tf.function(self._gradient_sum, autograph=False, jit_compile=True)

        def program(function: Callable[..., Any]) -> Any:
            # Without autograph, errors reach the user as they were raised.
            return tf.function(
                lambda *arguments: self._totals(strategy.run(function, arguments)),
                autograph=False,
                jit_compile=self.compiled is CompiledPart.STEP,
            )

        self._add = program(self._replica_add)
        self._finish_alone = program(self._replica_finish)
        self._finish_accumulated = program(
            lambda batch, noise: self._replica_finish(batch, noise, accumulated=True)
        )

    @staticmethod
    def _local_total(shape: tuple[int, ...]) -> tf.Variable:
        return tf.Variable(
            tf.zeros(shape),
            trainable=False,
            synchronization=tf.VariableSynchronization.ON_READ,
            aggregation=tf.VariableAggregation.SUM,
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

    def _loss_of(self, batch: dict[str, Any]) -> PerExampleLoss:
        """The loss that is minimised: each example's depends on itself and its group alone."""
        loss = self._task_loss_of(batch)
        return loss if self.player is None else self.player.priced(batch, loss)

    def _task_loss_of(self, batch: dict[str, Any]) -> PerExampleLoss:
        """The loss with each example's weight, which depends on its own group and label alone."""
        if self._group_weights is None:
            return self._terms.added_to(self._loss)
        weights = self._group_weights.of(batch)
        return self._terms.added_to(lambda labels, logits: self._loss(labels, logits) * weights)

    def _apart(
        self, report: dict[str, tf.Tensor], logits: tf.Tensor, counted: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """The report with leakage taken out of the loss and named on its own.

        Args:
            report: `loss` over the examples that are counted.
            logits: float32 (batch, classes).
            counted: bool (batch,).
        """
        if not self._terms.leakage:
            return report
        leakage = tf.reduce_sum(tf.where(counted, confidence(logits), 0.0))
        loss = report["loss"] - self._terms.leakage * leakage
        return {**report, "loss": loss, "leakage": leakage}

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

    def begin_epoch(self) -> None:
        """To be called before the first step of an epoch."""
        if self._keeper is not None:
            self._keeper.begin_epoch()

    def watched(self) -> WatchedCounts | None:
        """Who was clipped so far; None where nobody counts."""
        return None if self._keeper is None else self._keeper.read()

    def draws(self, step: int, randomness: Randomness) -> Draws:
        """What `finish` takes for the noise of `step`; a plain step ignores it."""
        return Draws(np.zeros((1, 1, 2), np.int64), np.zeros(1, np.float32))

    def add(self, batch: Any) -> StepTotals:
        """Adds a physical batch to the logical one."""
        return _read(self._add(batch))

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
        noise = (draws.seeds, draws.coefficients, np.int32(draws.slot))
        return _read(run(batch, tuple(tf.constant(part) for part in noise)))

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
        *noise, remembered = self._noise_specs()
        traced = [self._finish_alone.get_concrete_function(batch, tuple(noise)).graph]
        if self._memory is not None:
            traced.append(self._memory.remember.get_concrete_function(*remembered).graph)
        return traced

    def lowered(self, batch: Any) -> list[str]:
        """The programs of a step as XLA takes them (HLO), before it optimizes; runs nothing.

        Args:
            batch: As in `trace`; on one device.

        Raises:
            ValueError: If XLA cannot take them; says why in XLA's words.
        """

        def hlo(function: Callable[..., Any], arguments: Any) -> str:
            compiled = tf.function(function, autograph=False, jit_compile=True)
            # It wants values, which it does not look at.
            zeros = tf.nest.map_structure(lambda s: tf.zeros(s.shape, s.dtype), arguments)
            return str(compiled.experimental_get_compiler_ir(*zeros)(stage="hlo"))

        def finish(batch: Any, noise: Noise) -> Any:
            return self._replica_finish(batch, noise, accumulated=bool(self._accumulated))

        *noise, remembered = self._noise_specs()
        programs = [hlo(finish, (batch, tuple(noise)))]
        if self._memory is not None:
            programs.append(hlo(self._memory.advance_replica, remembered))
        return programs

    def _noise_specs(self) -> Any:
        """Specifications of `Noise` and, last, of what `NoiseMemory.remember` takes."""
        draws = self.draws(0, Randomness(0, reproducible=True))
        seeds = tf.TensorSpec(draws.seeds.shape, tf.int64)
        coefficients = tf.TensorSpec(draws.coefficients.shape, tf.float32)
        slot = tf.TensorSpec([], tf.int32)
        feedback = tf.TensorSpec(draws.feedback.shape, tf.float32)
        return seeds, coefficients, slot, (seeds, coefficients, feedback, slot)

    def finalize(self) -> None:
        """To be called once, after the last step: the optimizer's last word on the weights.

        With `use_ema` it replaces them by their moving average; most optimizers have none.
        """
        with self._strategy.scope():
            self._optimizer.finalize_variable_values(self._variables)

    def weights_are_finite(self) -> bool:
        """Whether every trainable weight is a number."""
        return all(bool(np.isfinite(v.numpy()).all()) for v in self._variables)

    def _totals(self, per_replica: dict[str, Any]) -> dict[str, tf.Tensor]:
        if self._strategy.num_replicas_in_sync == 1:
            return per_replica
        # As one vector: each reduction over several workers is a message that all wait for.
        names = list(per_replica)
        packed = self._strategy.run(
            lambda report: tf.stack([report[n] for n in names]), (per_replica,)
        )
        total = self._strategy.reduce(tf.distribute.ReduceOp.SUM, packed, axis=None)
        return dict(zip(names, tf.unstack(total, num=len(names)), strict=True))

    def _replica_add(self, batch: dict[str, Any]) -> dict[str, tf.Tensor]:
        sums, report = self._sum(batch)
        for total, value in zip(self._accumulated, sums, strict=True):
            total.assign_add(value)
        self._accumulated_examples.assign_add(report["examples"])
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
            sums = [s + total for s, total in zip(sums, self._accumulated, strict=True)]
            examples = examples + self._accumulated_examples
        if self._strategy.num_replicas_in_sync > 1:
            context = tf.distribute.get_replica_context()
            sums, examples = context.all_reduce(tf.distribute.ReduceOp.SUM, (sums, examples))
        divisor = self._divisor(examples)
        released = self._release(sums, divisor, noise)
        self._update(released, divisor, self._penalty_gradients())
        if accumulated:
            for total in (*self._accumulated, self._accumulated_examples):
                total.assign(tf.zeros_like(total))
        return report

    def _penalty_gradients(self) -> list[tf.Tensor] | None:
        """Gradients of the penalties on weights, which see no example: added after any noise."""
        values = [tf.convert_to_tensor(v.value) for v in self._variables]
        regularizers = [v.regularizer for v in self._variables]
        if not self._l2 and not any(regularizers):
            return None
        with tf.GradientTape() as tape:
            tape.watch(values)
            terms = [
                self._l2 * tf.reduce_sum(tf.square(value))
                for variable, value in zip(self._variables, values, strict=True)
                if self._l2 and _is_kernel(variable)
            ]
            terms += [r(v) for r, v in zip(regularizers, values, strict=True) if r is not None]
            penalty = tf.add_n([tf.cast(term, tf.float32) for term in terms])
        found = tape.gradient(penalty, values, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return [tf.cast(tf.convert_to_tensor(g), tf.float32) for g in found]


def _is_kernel(variable: keras.Variable) -> bool:
    # EinsumDense gives biases of two axes (heads, width).
    return len(variable.shape) >= 2 and "bias" not in variable.name


def _read(totals: dict[str, tf.Tensor]) -> StepTotals:
    return StepTotals(**{key: float(value) for key, value in totals.items()})


def report_of(
    labels: tf.Tensor, logits: tf.Tensor, losses: tf.Tensor, mask: tf.Tensor, non_finite: tf.Tensor
) -> dict[str, tf.Tensor]:
    """Sums for `StepTotals` over one batch.

    Args:
        labels: int (batch,).
        logits: float32 (batch, classes).
        losses: float32 (batch,), zero where padding or left out.
        mask: bool (batch,), False where padding.
        non_finite: (), examples left out.
    """
    right = tf.equal(tf.argmax(logits, axis=-1, output_type=tf.int32), tf.cast(labels, tf.int32))
    return {
        "loss": tf.reduce_sum(losses),
        "correct": tf.reduce_sum(tf.cast(right & mask, tf.float32)),
        "examples": tf.reduce_sum(tf.cast(mask, tf.float32)),
        "non_finite": tf.cast(non_finite, tf.float32),
    }
