"""Name in a recipe -> mechanism. The one place to add to."""

from __future__ import annotations

from collections.abc import Callable

from configs.schema import MechanismSettings, require
from training.privacy.mechanisms.banded import BandedMechanism
from training.privacy.mechanisms.base import Mechanism
from training.privacy.mechanisms.gaussian import GaussianMechanism
from training.privacy.mechanisms.schedules import schedule_levels
from training.privacy.mechanisms.toeplitz import best_coefficients
from training.privacy.mechanisms.tree import TreeMechanism
from training.privacy.sampling.base import Sampling

# Without a choice, and without sampling that asks for as many as it has groups.
_BANDS = 8

MECHANISMS: dict[str, type] = {
    cls.method: cls for cls in (GaussianMechanism, TreeMechanism, BandedMechanism)
}


def build_mechanism(
    settings: MechanismSettings, noise_multiplier: float, sampling: Sampling, steps: int
) -> Mechanism:
    """The recipe's mechanism at a noise multiplier.

    Args:
        settings: The recipe's.
        noise_multiplier: Noise standard deviation over the sensitivity of one step's sum.
        sampling: How batches are drawn.
        steps: Steps of the run.

    Raises:
        SettingError: If the settings do not fit the run.
    """
    return _BUILDERS[settings.method](settings, noise_multiplier, sampling, steps)


def _gaussian(
    settings: MechanismSettings, noise_multiplier: float, sampling: Sampling, steps: int
) -> Mechanism:
    return GaussianMechanism(noise_multiplier, schedule_levels(settings, steps))


def _tree(
    settings: MechanismSettings, noise_multiplier: float, sampling: Sampling, steps: int
) -> Mechanism:
    return TreeMechanism(noise_multiplier, sampling.period)


def _banded(
    settings: MechanismSettings, noise_multiplier: float, sampling: Sampling, steps: int
) -> Mechanism:
    default = sampling.period if sampling.method == "cyclic" else min(_BANDS, sampling.period)
    bands = default if settings.bands is None else settings.bands
    require(
        2 <= bands <= steps,
        "privacy.mechanism.bands",
        bands,
        f"at least 2 and at most the run's {steps} steps",
    )
    return BandedMechanism(noise_multiplier, best_coefficients(bands, steps))


_BUILDERS: dict[str, Callable[[MechanismSettings, float, Sampling, int], Mechanism]] = {
    GaussianMechanism.method: _gaussian,
    TreeMechanism.method: _tree,
    BandedMechanism.method: _banded,
}
