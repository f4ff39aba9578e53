"""PrivacyPlan: sampling, clipping, noise and accounting as one object that cannot drift apart.

Nothing else in Sterling sets a sampling probability, a clipping norm, a noise scale or the number
by which a noisy sum is divided; the step, the sampler and the ledger all ask the plan.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

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
from training.privacy.events import Neighbours, event_of, proven
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
from training.privacy.statement import statement_of
from training.privacy.users import UserRows, UserSampler, require_users
from training.randomness import Randomness

Unit = Literal["example", "user"]


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
        example, or a user with all of their training examples (`unit`).

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
            example is protected by itself, k where a user's (up to k) examples are.
        unit: Whom the guarantee protects. With `user`, what `sampling` draws and counts are users.
    """

    sampling: Sampling
    clipping: ClipMethod
    mechanism: Mechanism
    steps: int
    delta: float
    accountant: str = "pld"
    neighbours: Neighbours | None = None
    rows_per_record: int = 1
    unit: Unit = "example"

    def __post_init__(self) -> None:
        require(
            self.rows_per_record >= 1 and (self.by_user or self.rows_per_record == 1),
            "privacy.examples_per_user",
            self.rows_per_record,
            "a whole number >= 1, with privacy.unit: user",
        )
        require(
            1 <= self.batch_size <= self.num_examples,
            "training.batch_size",
            self.batch_size,
            f"at most the {self.num_examples} training {self.unit}s",
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
        # A combination without a proof is refused here.
        require_supported(self.event(1), self.accountant)

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
        rows_per_record: int = 1,
        unit: Unit = "example",
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
            rows_per_record=rows_per_record,
            unit=unit,
        )

    @classmethod
    def user_level_dp_sgd(
        cls, *, num_users: int, examples_per_user: int, **further: Any
    ) -> PrivacyPlan:
        """DP-SGD whose unit is a user (user-wise DP-SGD; Chua et al. 2024, arXiv:2406.14322).

        Args:
            num_users: Users of the training set.
            examples_per_user: Most examples of a user that a step reads.
            further: As `dp_sgd`; `batch_size` is the expected number of users.

        Raises:
            SettingError: As `dp_sgd`.
        """
        return cls.dp_sgd(
            num_examples=num_users, rows_per_record=examples_per_user, unit="user", **further
        )

    @classmethod
    def from_settings(
        cls, settings: PrivacySettings, *, num_examples: int, batch_size: int, steps: int
    ) -> PrivacyPlan:
        """Builds the plan; calibrates the noise where the settings name an epsilon.

        Args:
            settings: What is asked for.
            num_examples: Training examples; users, where the settings' unit is a user.
            batch_size: Expected number of them a step.
            steps: Releases planned.

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
            rows_per_record=settings.examples_per_user or 1,
            unit=settings.unit,
        )
        if settings.epsilon is None or settings.noise_multiplier is not None:
            return plan
        calibrated = calibrate_noise(
            lambda sigma: plan.with_noise(sigma).event(steps),
            settings.epsilon,
            delta,
            settings.accountant,
        )
        return plan.with_noise(calibrated)

    def with_noise(self, noise_multiplier: float) -> PrivacyPlan:
        """The same plan at another noise multiplier."""
        return replace(self, mechanism=self.mechanism.with_noise(noise_multiplier))

    @property
    def by_user(self) -> bool:
        """Whether the unit of privacy is a user."""
        return self.unit == "user"

    @property
    def num_examples(self) -> int:
        """Training examples, or users where the unit is a user; public."""
        return self.sampling.num_examples

    @property
    def batch_size(self) -> int:
        """Expected examples (or users) a step, by which noisy sums are divided; public."""
        return self.sampling.batch_size

    @property
    def clipping_norm(self) -> float:
        """Bound on what one record can add to the (first) sum, in L2 norm."""
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

    def event(self, releases: int) -> dp_accounting.DpEvent:
        """What `releases` steps cost, as the accountants understand it."""
        return event_of(self.sampling, self.mechanism, releases, self.neighbours)

    def epsilon(self, releases: int) -> float:
        """Epsilon spent by `releases` steps at this plan's delta."""
        return epsilon_of(self.event(releases), self.delta, self.accountant)

    def sampler(self, randomness: Randomness, users: UserRows | None = None) -> Sampler:
        """What draws the rows of every step, `rows_per_record` side by side for each record.

        Args:
            randomness: Where the draws come from.
            users: Whose each row is, where the unit is a user; else it must be None.

        Raises:
            UserError: If they are missing, not wanted, or not as many as planned.
        """
        drawn = self.sampling.sampler(randomness)
        if users is None and not self.by_user:
            return drawn
        known = require_users(users, self.num_examples if self.by_user else None)
        return UserSampler(drawn, known, self.rows_per_record, randomness)

    def draws(self, step: int, randomness: Randomness, tensors: int) -> Draws:
        """The noise of `step` for `tensors` released tensors."""
        return self.mechanism.draws(step, randomness, tensors)

    def query(self) -> Any:
        """TF-Privacy's query that makes a release of the clipped sums."""
        return self.clipping.query(self.noise_multiplier, self.batch_size)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for the ledger's header."""
        sampling = _part(self.sampling)
        if self.by_user:
            sampling["num_users"] = sampling.pop("num_examples")
        return {
            **({"unit": "user"} if self.by_user else {}),
            "sampling": sampling,
            "clipping": _part(self.clipping),
            "mechanism": _part(self.mechanism),
            "steps": self.steps,
            "delta": self.delta,
            "accountant": self.accountant,
            "neighbours": self.neighbours,
            "rows_per_record": self.rows_per_record,
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> PrivacyPlan:
        """The plan that `to_dict` described.

        Raises:
            KeyError, TypeError, SettingError: If it is none.
        """
        sampling = dict(document["sampling"])
        if document.get("unit") == "user":
            sampling["num_examples"] = sampling.pop("num_users")
        return cls(
            **{
                **document,
                "sampling": _of_part(SAMPLINGS, sampling),
                "clipping": _of_part(CLIP_METHODS, document["clipping"]),
                "mechanism": _of_part(MECHANISMS, document["mechanism"]),
            }
        )

    @property
    def fingerprint(self) -> str:
        """Changes whenever anything does that the guarantee depends on, but for the length."""
        parts = {key: value for key, value in self.to_dict().items() if key != "steps"}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    def statement(self, releases: int, *, reproducible: bool) -> str:
        """The guarantee in words, with every assumption it rests on."""
        return statement_of(self, releases, reproducible=reproducible)


def _part(part: Any) -> dict[str, Any]:
    # As JSON gives it back: lists, where the parts hold tuples.
    plain: dict[str, Any] = json.loads(json.dumps({"method": part.method, **asdict(part)}))
    return plain


def _of_part(registry: Mapping[str, type], document: Mapping[str, Any]) -> Any:
    fields = dict(document)
    return registry[fields.pop("method")](**fields)
