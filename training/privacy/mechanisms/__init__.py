"""How noise is added to the clipped sums of a run. One file a mechanism.

A mechanism is a frozen dataclass of public numbers. It says which replayable Gaussian draws make up
the noise of each step. Independent noise is one fresh draw; noise correlated by a tree names again
draws of earlier steps; noise correlated by a banded matrix needs the noises before it at hand
(`training.privacy.noise_memory`). All of it follows from the root of randomness and the step.
"""

from training.privacy.mechanisms.banded import BandedMechanism
from training.privacy.mechanisms.base import Draws, Mechanism
from training.privacy.mechanisms.gaussian import GaussianMechanism
from training.privacy.mechanisms.registry import MECHANISMS, build_mechanism
from training.privacy.mechanisms.tree import TreeMechanism

__all__ = [
    "MECHANISMS",
    "BandedMechanism",
    "Draws",
    "GaussianMechanism",
    "Mechanism",
    "TreeMechanism",
    "build_mechanism",
]
