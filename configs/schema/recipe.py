"""A recipe: everything that decides a run, in one frozen, typed object."""

from __future__ import annotations

from dataclasses import dataclass, field

from configs.schema.data import DataSettings
from configs.schema.decision import DecisionSettings
from configs.schema.errors import require
from configs.schema.evaluation import EvaluationSettings
from configs.schema.fairness import FairnessSettings
from configs.schema.model import ModelSettings
from configs.schema.objective import ObjectiveSettings
from configs.schema.privacy import PrivacySettings
from configs.schema.training import TrainingSettings


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a run.

    Attributes:
        data: Which examples.
        model: Which network.
        training: How to train it.
        privacy: The guarantee asked for.
        fairness: How training is changed so that groups fare alike.
        objective: What is added to the loss beside unfairness.
        evaluation: What is measured, and of whom.
        decision: How scores become answers once training is over.
    """

    data: DataSettings = field(default_factory=DataSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    privacy: PrivacySettings = field(default_factory=PrivacySettings)
    fairness: FairnessSettings = field(default_factory=FairnessSettings)
    objective: ObjectiveSettings = field(default_factory=ObjectiveSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    decision: DecisionSettings = field(default_factory=DecisionSettings)

    def __post_init__(self) -> None:
        if self.privacy.enabled:
            self.fairness.require_private()
            self.objective.require_private()
            if self.privacy.unit == "user":
                self._require_users()
        else:
            self.fairness.require_plain()
        require(
            self.objective.opacity_weight == 0 or self.fairness.adversary.parity is None,
            "objective.opacity_weight",
            self.objective.opacity_weight,
            "0 beside fairness.adversary, whose gradient is projected off the task's alone",
        )

    def _require_users(self) -> None:
        require(
            self.data.user is not None,
            "data.user",
            None,
            "the column or feature that names an example's user, because privacy.unit is user",
        )
        require(
            self.decision.thresholds.attribute is None,
            "decision.thresholds.attribute",
            self.decision.thresholds.attribute,
            "null with privacy.unit: user: thresholds count validation examples one by one, and "
            "what that costs a user with several of them is not bounded",
        )
        require(
            self.fairness.balanced_sampling is None,
            "fairness.balanced_sampling",
            self.fairness.balanced_sampling,
            "null with privacy.unit: user: a user's examples may be of several groups",
        )
        swaps = self.fairness.swaps
        require(
            not swaps.asked_for or swaps.mode != "together",
            "fairness.swaps.mode",
            swaps.mode,
            "random with privacy.unit: user, whose rows are bounded together as they are",
        )
        size, rows = self.training.physical_batch_size, self.privacy.examples_per_user or 1
        require(
            size is None or size % rows == 0,
            "training.physical_batch_size",
            size,
            f"a multiple of privacy.examples_per_user ({rows}), so that no user is cut in two",
        )
