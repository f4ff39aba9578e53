"""A recipe: everything that decides a run, in one frozen, typed object."""

from __future__ import annotations

from dataclasses import dataclass, field

from configs.schema.data import DataSettings
from configs.schema.decision import DecisionSettings
from configs.schema.evaluation import EvaluationSettings
from configs.schema.fairness import FairnessSettings
from configs.schema.model import ModelSettings
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
        evaluation: What is measured, and of whom.
        decision: How scores become answers once training is over.
    """

    data: DataSettings = field(default_factory=DataSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    privacy: PrivacySettings = field(default_factory=PrivacySettings)
    fairness: FairnessSettings = field(default_factory=FairnessSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    decision: DecisionSettings = field(default_factory=DecisionSettings)

    def __post_init__(self) -> None:
        if self.privacy.enabled:
            self.fairness.require_private()
        else:
            self.fairness.require_plain()
