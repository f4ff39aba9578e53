"""PrivacyPlan: sampling, clipping, noise and accounting as one object that cannot drift apart.

Nothing else in Sterling sets a sampling probability, a clipping norm, a noise scale or the number
by which a noisy sum is divided; the step, the sampler and the ledger all ask the plan.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import dp_accounting

from configs.schema import PrivacySettings, require
from training.batching import Sampler
from training.privacy.accounting import (
    calibrate_noise,
    default_delta,
    epsilon_of,
    require_supported,
)
from training.privacy.clip_methods import (
    CLIP_METHODS,
    ClipMethod,
    FlatClipping,
    build_clip_method,
)
from training.privacy.clip_methods.base import LEAST_BOUND
from training.privacy.events import SCHEDULED, Neighbours, event_of, proven
from training.privacy.group_releases import GroupReleases
from training.privacy.mechanisms import (
    MECHANISMS,
    Draws,
    GaussianMechanism,
    Mechanism,
    build_mechanism,
)
from training.privacy.sampling import (
    SAMPLINGS,
    PoissonSampling,
    Sampling,
    build_sampling,
)
from training.randomness import Randomness


def _require_meaningful(delta: float, num_examples: int) -> None:
    require(
        delta < 1.0 / num_examples,
        "privacy.delta",
        delta,
        f"less than 1/N = {1 / num_examples:.3g}: at 1/N, publishing one whole record would "
        "already be allowed",
    )


@dataclass(frozen=True)
class PrivacyPlan:
    """Noisy sums of clipped per-example gradients, and what releasing them costs.

    Guarantees:
        Releasing `steps` noisy gradient sums, and anything computed from them alone, is
        (epsilon, delta)-differentially private for `neighbours`, with respect to one record: an
        example, or all of a person's rows where `rows_per_record` is more than 1. Noisy tables of
        groups, where the plan has any, are part of that epsilon.

    Attributes:
        sampling: Which examples form each batch.
        clipping: How each example's gradient is bounded.
        mechanism: Which noise each sum receives.
        steps: Releases planned.
        delta: Probability with which epsilon may fail.
        accountant: `pld` or `rdp`.
        neighbours: What the guarantee hides: `add_remove`, `zero_out` or `replace_one`
            (`training.privacy.independent_events` defines them). None takes the customary one of
            those that are proven for sampling and mechanism, and says which.
        rows_per_record: Rows of the batch that are one record, bounded together: 1 where every
            example is protected by itself, k where a person's (up to k) examples are, and
            `sampling` draws people.
        group_releases: Noisy tables of groups that are released beside; None for none.
    """

    sampling: Sampling
    clipping: ClipMethod
    mechanism: Mechanism
    steps: int
    delta: float
    accountant: str = "pld"
    neighbours: Neighbours | None = None
    rows_per_record: int = 1
    group_releases: GroupReleases | None = None

    def __post_init__(self) -> None:
        require(
            1 <= self.batch_size <= self.num_examples,
            "training.batch_size",
            self.batch_size,
            f"at most the {self.num_examples} training examples",
        )
        require(self.steps >= 1, "training.steps", self.steps, "a whole number >= 1")
        require(
            self.clipping_norm >= LEAST_BOUND,
            "privacy.clipping_norm",
            self.clipping_norm,
            f"a number >= {LEAST_BOUND:g}: float32 loses the norms of smaller gradients",
        )
        require(
            self.noise_multiplier > 0,
            "privacy.noise_multiplier",
            self.noise_multiplier,
            "a number > 0",
        )
        require(0 < self.delta < 1, "privacy.delta", self.delta, "a probability in (0, 1)")
        require(
            not self.clipping.adapts or isinstance(self.mechanism, GaussianMechanism),
            "privacy.clipping.method",
            self.clipping.method,
            "a bound that stays, with noise that steps share (privacy.mechanism.method: "
            f"{self.mechanism.method}); an adaptive one goes with gaussian",
        )
        if self.neighbours is None:
            object.__setattr__(self, "neighbours", proven(self.sampling, self.mechanism)[0])
        if self.group_releases is not None:
            self._require_tables_proven(self.group_releases)
        # A combination without a proof is refused here.
        require_supported(self.event(1), self.accountant)

    def _require_tables_proven(self, tables: GroupReleases) -> None:
        key, value = "fairness.releases.noise_multiplier", tables.noise_multiplier
        require(
            isinstance(self.mechanism, GaussianMechanism) and isinstance(self.sampling, SCHEDULED),
            key,
            value,
            "null with steps that depend on each other; beside tables of groups is proven "
            "privacy.mechanism.method: gaussian with privacy.sampling.method: "
            + ", ".join(str(vars(cls)["method"]) for cls in SCHEDULED),
        )
        require(
            self.rows_per_record == 1,
            key,
            value,
            "null where a record is several examples: one of them is in several cells of a table",
        )

    @classmethod
    def dp_sgd(
        cls,
        *,
        num_examples: int,
        batch_size: int,
        steps: int,
        clipping_norm: float,
        noise_multiplier: float,
        delta: float,
        accountant: str = "pld",
    ) -> PrivacyPlan:
        """DP-SGD as Abadi et al. 2016 (arXiv:1607.00133): Poisson, flat clipping, Gaussian.

        Raises:
            SettingError: If a value is impossible, or delta is 1 / num_examples or more.
        """
        _require_meaningful(delta, num_examples)
        return cls(
            PoissonSampling(num_examples, batch_size),
            FlatClipping(clipping_norm),
            GaussianMechanism(noise_multiplier),
            steps=steps,
            delta=delta,
            accountant=accountant,
        )

    @classmethod
    def from_settings(
        cls,
        settings: PrivacySettings,
        *,
        num_examples: int,
        batch_size: int,
        steps: int,
        group_releases: GroupReleases | None = None,
    ) -> PrivacyPlan:
        """Builds the plan; calibrates the noise where the settings name an epsilon.

        Raises:
            SettingError: If a value is impossible or the guarantee cannot be met.
        """
        delta = default_delta(num_examples) if settings.delta is None else settings.delta
        _require_meaningful(delta, num_examples)
        noise = settings.noise_multiplier
        sampling = build_sampling(settings.sampling, num_examples, batch_size)
        plan = cls(
            sampling,
            build_clip_method(settings.clipping, settings.clipping_norm),
            build_mechanism(settings.mechanism, 1.0 if noise is None else noise, sampling, steps),
            steps=steps,
            delta=delta,
            accountant=settings.accountant,
            neighbours=settings.neighbours,
            group_releases=group_releases,
        )
        if settings.epsilon is None or settings.noise_multiplier is not None:
            return plan
        plan._require_affordable_tables(settings.epsilon)
        calibrated = calibrate_noise(
            lambda sigma: plan.with_noise(sigma).event(steps),
            settings.epsilon,
            delta,
            settings.accountant,
        )
        return plan.with_noise(calibrated)

    def _require_affordable_tables(self, epsilon: float) -> None:
        tables = self.tables(self.steps)
        if self.group_releases is None or not tables:
            return
        alone = epsilon_of(self.group_releases.event(tables), self.delta, self.accountant)
        require(
            alone < epsilon,
            "fairness.releases.noise_multiplier",
            self.group_releases.noise_multiplier,
            f"a larger number, or a larger fairness.releases.every: the {tables} tables planned "
            f"cost epsilon {alone:.4g} alone, and privacy.epsilon is {epsilon:g}",
        )

    def with_noise(self, noise_multiplier: float) -> PrivacyPlan:
        """The same plan at another noise multiplier."""
        return replace(self, mechanism=self.mechanism.with_noise(noise_multiplier))

    @property
    def num_examples(self) -> int:
        return self.sampling.num_examples

    @property
    def batch_size(self) -> int:
        """Expected examples a step, by which noisy sums are divided; public."""
        return self.sampling.batch_size

    @property
    def clipping_norm(self) -> float:
        """Bound on what one example can add to the (first) sum, in L2 norm."""
        return self.clipping.clipping_norm

    @property
    def noise_multiplier(self) -> float:
        return self.mechanism.noise_multiplier

    @property
    def needs_one_root(self) -> bool:
        """Whether a run that is resumed must draw every step from the root it began with."""
        return self.mechanism.needs_one_root or self.sampling.period > 1

    @property
    def noise_stddev(self) -> float:
        """Standard deviation of the noise on each coordinate of the (first) clipped sum."""
        return self.clipping.noise_stddev(self.noise_multiplier, self.batch_size)

    def tables(self, releases: int) -> int:
        """Tables of groups that go with the first `releases` steps."""
        return 0 if self.group_releases is None else self.group_releases.within(releases)

    def event(self, releases: int, tables: int | None = None) -> dp_accounting.DpEvent:
        """What `releases` steps cost, as the accountants understand it.

        Args:
            releases: Noisy gradients.
            tables: Noisy tables of groups beside them; None for those that go with the steps.
        """
        steps = event_of(self.sampling, self.mechanism, releases, self.neighbours)
        count = self.tables(releases) if tables is None else tables
        if self.group_releases is None or not count:
            return steps
        beside = self.group_releases.event(count)
        return dp_accounting.ComposedDpEvent((steps, beside)) if releases else beside

    def epsilon(self, releases: int, tables: int | None = None) -> float:
        """Epsilon spent by `releases` steps (and `tables`, as in `event`) at this plan's delta."""
        return epsilon_of(self.event(releases, tables), self.delta, self.accountant)

    def sampler(self, randomness: Randomness) -> Sampler:
        return self.sampling.sampler(randomness)

    def draws(self, step: int, randomness: Randomness, tensors: int) -> Draws:
        """The noise of `step` for `tensors` released tensors."""
        return self.mechanism.draws(step, randomness, tensors)

    def query(self) -> Any:
        """TF-Privacy's query that makes a release of the clipped sums."""
        return self.clipping.query(self.noise_multiplier, self.batch_size)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for the ledger's header."""
        return {
            "sampling": _part(self.sampling),
            "clipping": _part(self.clipping),
            "mechanism": _part(self.mechanism),
            "steps": self.steps,
            "delta": self.delta,
            "accountant": self.accountant,
            "neighbours": self.neighbours,
            "rows_per_record": self.rows_per_record,
            # Absent without: what a plan costs is told by what is in it.
            **(
                {}
                if self.group_releases is None
                else {"group_releases": self.group_releases.to_dict()}
            ),
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> PrivacyPlan:
        """The plan that `to_dict` described.

        Raises:
            KeyError, TypeError, SettingError: If it is none.
        """
        tables = document.get("group_releases")
        return cls(
            **{
                **document,
                "group_releases": None if tables is None else GroupReleases(**tables),
                "sampling": _of_part(SAMPLINGS, document["sampling"]),
                "clipping": _of_part(CLIP_METHODS, document["clipping"]),
                "mechanism": _of_part(MECHANISMS, document["mechanism"]),
            }
        )

    @property
    def fingerprint(self) -> str:
        """Changes whenever anything does that the guarantee depends on, but for the length."""
        parts = {key: value for key, value in self.to_dict().items() if key != "steps"}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    def statement(self, releases: int, *, reproducible: bool, tables: int | None = None) -> str:
        """The guarantee in words, with every assumption it rests on.

        Args:
            releases, tables: As in `event`.
            reproducible: Whether a recipe fixes the seed of the noise.
        """
        record = _RECORD if self.rows_per_record == 1 else _PERSON
        hidden = _HIDDEN[str(self.neighbours)].format(record=record)
        beside, count = "", self.tables(releases) if tables is None else tables
        if self.group_releases is not None and count:
            beside = f"; {self.group_releases.describe(count, str(self.neighbours))}"
        text = (
            f"The trained weights are ({self.epsilon(releases, tables):.4g}, {self.delta:.3g})-"
            f"differentially private with respect to {hidden}. "
            f"{releases} releases; {self.sampling.describe()}; {self.clipping.describe()}; "
            f"{self.mechanism.describe(self.noise_stddev)}{beside}. Accounted with "
            f"{self.accountant.upper()} (dp_accounting). Assumed public: which records form the "
            "training split and their number, the recipe, and the label and group names. Not "
            "covered: choices made by looking at the training data before this run (features, "
            "hyper-parameters), measurements of training examples, validation and test "
            f"examples, and {self._not_covered}. Floating-point noise is not "
            "proof against least-significant-bit attacks (Mironov 2012)."
        )
        if 0 < releases < self.steps:
            text += (
                " The number of releases is taken as fixed beforehand: if training was stopped "
                "early because of what it had released (early stopping, a look at the weights), "
                f"what is proven is the epsilon of all {self.steps} planned releases, "
                f"{self.epsilon(self.steps):.4g}."
            )
        if reproducible:
            text += (
                " The recipe fixes the random seed: whoever knows it can subtract the noise, so "
                "the guarantee holds only against those who do not. Leave training.seed unset to "
                "publish."
            )
        return text

    @property
    def _not_covered(self) -> str:
        if self.rows_per_record == 1:
            return "people who appear in more than one example"
        return "people who appear under more than one user name"


_RECORD = "one training example"
_PERSON = "one user with all of their examples"
_HIDDEN = {
    "add_remove": "adding or removing {record}",
    "zero_out": "blanking {record} (zero-out: the record stays counted and contributes nothing)",
    "replace_one": "replacing {record} by any other",
}


def _part(part: Any) -> dict[str, Any]:
    # As JSON gives it back: lists, where the parts hold tuples.
    plain: dict[str, Any] = json.loads(json.dumps({"method": part.method, **asdict(part)}))
    return plain


def _of_part(registry: Mapping[str, type], document: Mapping[str, Any]) -> Any:
    fields = dict(document)
    return registry[fields.pop("method")](**fields)
