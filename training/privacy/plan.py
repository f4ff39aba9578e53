"""PrivacyPlan: sampling, clipping, noise and accounting as one object that cannot drift apart.

Nothing else in Sterling sets a sampling probability, a clipping norm, a noise scale or the number
by which a noisy sum is divided; the step, the sampler and the ledger all ask the plan.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace

import dp_accounting

from configs.schema import PrivacySettings, SettingError, require
from training.privacy.accounting import (
    calibrate_noise,
    default_delta,
    epsilon_of,
    poisson_gaussian_event,
)
from training.privacy.noise import ReplayableGaussianSumQuery
from training.privacy.sampling import PoissonSampler
from training.randomness import Randomness


@dataclass(frozen=True)
class PrivacyPlan:
    """DP-SGD (Abadi et al. 2016, arXiv:1607.00133) with Poisson sampling.

    Guarantees:
        Releasing `steps` noisy gradient sums, and anything computed from them alone, is
        (epsilon, delta)-differentially private under adding or removing one training example.

    Attributes:
        num_examples: Training examples N; public.
        batch_size: Expected examples per step; public. Noisy sums are divided by it.
        steps: Releases planned.
        clipping_norm: Bound on each example's gradient L2 norm: the sensitivity of the sum.
        noise_multiplier: Noise standard deviation divided by the sensitivity.
        delta: Probability with which epsilon may fail.
        accountant: `pld` or `rdp`.
    """

    num_examples: int
    batch_size: int
    steps: int
    clipping_norm: float
    noise_multiplier: float
    delta: float
    accountant: str = "pld"

    def __post_init__(self) -> None:
        require(
            1 <= self.batch_size <= self.num_examples,
            "training.batch_size",
            self.batch_size,
            f"at most the {self.num_examples} training examples",
        )
        require(self.steps >= 1, "training.steps", self.steps, "a whole number >= 1")
        require(self.clipping_norm > 0, "privacy.clipping_norm", self.clipping_norm, "a number > 0")
        require(
            self.noise_multiplier > 0,
            "privacy.noise_multiplier",
            self.noise_multiplier,
            "a number > 0",
        )
        require(0 < self.delta < 1, "privacy.delta", self.delta, "a probability in (0, 1)")

    @classmethod
    def from_settings(
        cls, settings: PrivacySettings, *, num_examples: int, batch_size: int, steps: int
    ) -> PrivacyPlan:
        """Builds the plan; calibrates the noise where the settings name an epsilon.

        Raises:
            SettingError: If a value is impossible or the guarantee cannot be met.
        """
        delta = default_delta(num_examples) if settings.delta is None else settings.delta
        if delta >= 1.0 / num_examples:
            raise SettingError(
                "privacy.delta",
                delta,
                f"less than 1/N = {1 / num_examples:.3g}: at 1/N, publishing one whole record "
                "would already be allowed",
            )
        noise = settings.noise_multiplier
        plan = cls(
            num_examples=num_examples,
            batch_size=batch_size,
            steps=steps,
            clipping_norm=settings.clipping_norm,
            noise_multiplier=1.0 if noise is None else noise,
            delta=delta,
            accountant=settings.accountant,
        )
        if settings.epsilon is None:
            return plan
        calibrated = calibrate_noise(
            lambda sigma: replace(plan, noise_multiplier=sigma).event(steps),
            settings.epsilon,
            delta,
            settings.accountant,
        )
        return replace(plan, noise_multiplier=calibrated)

    @property
    def sampling_probability(self) -> float:
        return self.batch_size / self.num_examples

    @property
    def noise_stddev(self) -> float:
        """Standard deviation of the noise on each coordinate of the clipped sum."""
        return self.noise_multiplier * self.clipping_norm

    def event(self, releases: int) -> dp_accounting.DpEvent:
        """What `releases` steps cost, as the accountants understand it."""
        return poisson_gaussian_event(self.sampling_probability, self.noise_multiplier, releases)

    def epsilon(self, releases: int) -> float:
        """Epsilon spent by `releases` steps at this plan's delta."""
        return epsilon_of(self.event(releases), self.delta, self.accountant)

    def sampler(self, randomness: Randomness) -> PoissonSampler:
        return PoissonSampler(self.num_examples, self.sampling_probability, randomness)

    def query(self) -> ReplayableGaussianSumQuery:
        return ReplayableGaussianSumQuery(self.clipping_norm, self.noise_stddev)

    @property
    def fingerprint(self) -> str:
        """Changes whenever anything does that the guarantee depends on, but for the length."""
        parts = {key: value for key, value in asdict(self).items() if key != "steps"}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    def statement(self, releases: int, *, reproducible: bool) -> str:
        """The guarantee in words, with every assumption it rests on."""
        text = (
            f"The trained weights are ({self.epsilon(releases):.4g}, {self.delta:.3g})-"
            "differentially private with respect to adding or removing one training example. "
            f"DP-SGD: {releases} releases; each example drawn independently with probability "
            f"{self.sampling_probability:.6g} (Poisson sampling, {self.batch_size} expected of "
            f"{self.num_examples}); per-example gradients clipped to L2 norm "
            f"{self.clipping_norm:g}; Gaussian noise of standard deviation {self.noise_stddev:.6g} "
            f"(noise multiplier {self.noise_multiplier:.6g}). Accounted with "
            f"{self.accountant.upper()} (dp_accounting). Assumed public: which records form the "
            "training split and their number, the recipe, and the label and group names. Not "
            "covered: choices made by looking at the training data before this run (features, "
            "hyper-parameters), measurements of training examples, validation and test "
            "examples, and people who appear in more than one example. Floating-point noise is not "
            "proof against least-significant-bit attacks (Mironov 2012)."
        )
        if reproducible:
            text += (
                " The recipe fixes the random seed: whoever knows it can subtract the noise, so "
                "the guarantee holds only against those who do not. Leave training.seed unset to "
                "publish."
            )
        return text
