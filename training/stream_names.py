"""What names a run's random streams, and its releases: whatever could change them.

Guarantees (what epsilon depends on):
    Two seeded private runs that differ in anything by which a release can differ (a person in the
    data, a weight they start from, a setting) share no stream, so that the difference of their
    releases is never free of noise. Two releases of one step have one identity only if they are
    the same release.

A run that is resumed under other names (after an update of Sterling that adds a setting, say) has
another root: it is refused where one root is needed, and elsewhere counts steps run again anew.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace

from configs.schema import Recipe
from data import Dataset
from training.one_root import kept_root
from training.randomness import Randomness
from training.run_directory import RunDirectory
from training.workers import Workers

# Settings of `training` that change no release: `strategy` but for the order in which floats are
# added, since a run that is spread otherwise must end with the same weights.
_HOW_IT_IS_RUN = (
    "strategy",
    "jit_compile",  # see below
    "steps_per_execution",
    "checkpoint_every",
    "keep_checkpoints",
    "profile",
)
# The same of `data`: the batches are the same wherever the examples lie and are prepared.
_WHERE_IT_LIES = ("cache", "store", "service")


def randomness_context(recipe: Recipe, dataset: Dataset, weights: str) -> str:
    """What, beside the seed, names a private run's random streams; "" without privacy.

    Everything that can change a release, the bytes of the data and of the weights it starts from
    among it: two runs over a file and the same file less one person must not share their noise.
    Not how the run is spread and saved: two runs of one seed, on one device and on several, release
    the same sums with the same noise, apart in the last digits.
    """
    if not recipe.privacy.enabled:
        return ""
    training = asdict(recipe.training)
    for name in _HOW_IT_IS_RUN:
        del training[name]
    examples = asdict(recipe.data)
    for name in _WHERE_IT_LIES:
        del examples[name]
    files = sorted(dataset.info.provenance.sha256.items())
    sections = ("model", "privacy", "fairness", "objective", "decision")
    rest = (asdict(getattr(recipe, section)) for section in sections)
    # Constraints and thresholds price the answer that is called positive.
    positive = recipe.evaluation.positive_label
    # What is measured in batches of another size is rounded otherwise: tables of losses by group,
    # and validation, by which training may stop or its learning rate fall at another step. From
    # there on the weights differ, and under the same noise so would the releases.
    measured = recipe.evaluation.batch_size
    decisive = [training, examples, *rest, measured, *([] if positive is None else [positive])]
    decisive += [weights] if weights else []
    # Compiled by XLA, a step is rounded otherwise.
    decisive += ["jit_compile"] if recipe.training.jit_compile else []
    return json.dumps([*decisive, files, len(dataset.train)], sort_keys=True)


def shared_randomness(
    recipe: Recipe, dataset: Dataset, weights: str, workers: Workers, run: RunDirectory | None
) -> Randomness:
    """One root for all workers: they must draw the same batches and the same noise."""
    context = randomness_context(recipe, dataset, weights)
    own = Randomness.from_seed(recipe.training.seed, context)
    kept = None
    if run is not None and recipe.training.seed is None:
        kept = kept_root(run.noise_root)
    return replace(own, root=workers.from_chief(own.root if kept is None else kept))


def release_identity(
    randomness: Randomness, dataset: Dataset, *, size: int, replicas: int, steps: int
) -> str:
    """Two releases of one step are the same only if all of this is the same.

    Args:
        randomness: The run's root.
        dataset: What it trains on.
        size: Rows of a physical batch.
        replicas: Devices it is spread over.
        steps: Steps of the run.
    """
    files = sorted(dataset.info.provenance.sha256.items())
    parts = [randomness.fingerprint, size, replicas, steps, files]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
