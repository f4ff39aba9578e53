"""What names a run's random streams, and its releases: whatever could change them.

Guarantees (what epsilon depends on):
    Two seeded private runs that differ in anything by which a release can differ (a person in the
    data, a weight they start from, a setting) share no stream, so that the difference of their
    releases is never free of noise. Two releases of one step have one identity only if they are
    the same release.

Data are named by their bytes where these are known wholly (`Provenance.content`: tables, image
folders, the census), so that a recipe and its data may move to another folder and draw the same.
Elsewhere (TFDS, whose record files are hashed but not the files that say how to read them) the path
counts beside the hashes. What a path names outside `data`, weights of a model say, counts by both.

A run that is resumed under other names (after an update of Sterling that adds a setting, say) has
another root: it is refused where one root is needed, and elsewhere counts steps run again anew.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from typing import Any

from configs.schema import DataSettings, FairnessSettings, Recipe
from data import Dataset
from data.assembly import SPLITS
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
    provenance = dataset.info.provenance
    examples = _examples_named(recipe.data, by_content=bool(provenance.content))
    files = sorted((provenance.content or provenance.sha256).items())
    sections = ("model", "privacy", "objective", "decision")
    rest = [asdict(getattr(recipe, section)) for section in sections]
    rest.append(_fairness_named(recipe.fairness))
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
    # In the order of the recipe, which can matter: of word lists, of callbacks.
    return json.dumps([*decisive, files, len(dataset.train)])


def _examples_named(settings: DataSettings, *, by_content: bool) -> dict[str, Any]:
    """The data settings that decide which examples there are; paths as far as they do."""
    examples = asdict(settings)
    for name in _WHERE_IT_LIES:
        del examples[name]
    if by_content:
        del examples["asset_dir"]
        for source in (examples["table"], examples["image_folder"]):
            # What each names is among the digests; whether there is one decides what is cut.
            source.update({split: source[split] is not None for split in SPLITS})
    return examples


def _fairness_named(settings: FairnessSettings) -> dict[str, Any]:
    """The fairness settings; versions of examples are among the digests wherever they were read."""
    fairness = asdict(settings)
    swaps = fairness["swaps"]
    swaps["image_pairs"] = swaps["image_pairs"] is not None
    swaps["word_lists"] = {
        name: None if isinstance(rows, str) else rows for name, rows in swaps["word_lists"].items()
    }
    return fairness


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
