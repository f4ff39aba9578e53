"""How noise is added to the clipped sums of a run. One file a mechanism.

A mechanism is a frozen dataclass of public numbers. It says which replayable Gaussian draws make up
the noise of each step, so that no mechanism needs state beside the step: independent noise is one
fresh draw, correlated noise adds up draws that earlier steps used too.
"""

from training.privacy.mechanisms.base import Draws, Mechanism
from training.privacy.mechanisms.gaussian import GaussianMechanism
from training.privacy.mechanisms.registry import MECHANISMS, build_mechanism

__all__ = ["MECHANISMS", "Draws", "GaussianMechanism", "Mechanism", "build_mechanism"]
