"""The vocabulary of recipes: frozen dataclasses, checked as they are made.

Free of TensorFlow, so that `sterling --help` answers at once. Each room of the program takes its
own section and nothing else.
"""

from configs.schema.clipping import ClippingGroup, ClippingSettings, ClippingWatchSettings
from configs.schema.data import DataSettings, ImageFolderSettings, TableSettings, TfdsSettings
from configs.schema.decision import AbstainSettings, DecisionSettings, ThresholdSettings
from configs.schema.errors import SettingError, UserError, require
from configs.schema.evaluation import EvaluationSettings
from configs.schema.fairness import FairnessSettings, PenaltySettings, SwapSettings
from configs.schema.group_games import (
    AdversarySettings,
    ConstraintSettings,
    GroupDroSettings,
    ReleaseSettings,
)
from configs.schema.mechanism import MechanismSettings
from configs.schema.model import (
    BertSettings,
    CnnSettings,
    MlpSettings,
    ModelSettings,
    ResNet50Settings,
)
from configs.schema.objective import ObjectiveSettings
from configs.schema.privacy import PrivacySettings
from configs.schema.recipe import Recipe
from configs.schema.sampling import SamplingSettings
from configs.schema.training import OptimizerSettings, TrainingSettings

__all__ = [
    "AbstainSettings",
    "AdversarySettings",
    "BertSettings",
    "ClippingGroup",
    "ClippingSettings",
    "ClippingWatchSettings",
    "CnnSettings",
    "ConstraintSettings",
    "DataSettings",
    "DecisionSettings",
    "EvaluationSettings",
    "FairnessSettings",
    "GroupDroSettings",
    "ImageFolderSettings",
    "MechanismSettings",
    "MlpSettings",
    "ModelSettings",
    "ObjectiveSettings",
    "OptimizerSettings",
    "PenaltySettings",
    "PrivacySettings",
    "Recipe",
    "ReleaseSettings",
    "ResNet50Settings",
    "SamplingSettings",
    "SettingError",
    "SwapSettings",
    "TableSettings",
    "TfdsSettings",
    "ThresholdSettings",
    "TrainingSettings",
    "UserError",
    "require",
]
