"""Name in a recipe -> mechanism. The one place to add to."""

from __future__ import annotations

from configs.schema import MechanismSettings
from training.privacy.mechanisms.base import Mechanism
from training.privacy.mechanisms.gaussian import GaussianMechanism

MECHANISMS: dict[str, type] = {cls.method: cls for cls in (GaussianMechanism,)}


def build_mechanism(settings: MechanismSettings, noise_multiplier: float) -> Mechanism:
    """The recipe's mechanism at a noise multiplier."""
    mechanism: Mechanism = MECHANISMS[settings.method](noise_multiplier)
    return mechanism
