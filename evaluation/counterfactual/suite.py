"""The perturbations that a recipe asks for, put to a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from configs.schema.errors import SettingError, UserError
from configs.schema.evaluation import CounterfactualSettings, EvaluationSettings
from data.word_lists import WordList, read_word_list
from evaluation.counterfactual.image_pairs import read_images_of_pairs
from evaluation.counterfactual.measure import Perturbation, measure_perturbation
from evaluation.fairness.definitions import CONFIDENCE
from evaluation.fairness.measure import tracked_labels

if TYPE_CHECKING:
    from data.contracts import Split

Answer = Callable[[np.ndarray], np.ndarray]
"""Raw examples (examples, ...), as `data.contracts.Examples.raw`, to logits (examples, classes)."""

_KEY = "evaluation.counterfactual"
_ARROW = " → "


def check_counterfactuals(settings: CounterfactualSettings, modality: str) -> dict[str, WordList]:
    """Reads the word lists, and refuses what cannot be done, before anything has been paid for.

    Args:
        settings: What is asked for.
        modality: Of the data: `text`, `image` or `features`.

    Raises:
        SettingError: If a list or a pair cannot be read, or does not fit the data.
    """
    for name, wanted, fits in (
        ("word_lists", settings.word_lists, "text"),
        ("templates", settings.templates, "text"),
        ("image_pairs", settings.image_pairs, "image"),
    ):
        if wanted and modality != fits:
            raise SettingError(
                f"{_KEY}.{name}", wanted, f"nothing: it changes {fits}, and the data are {modality}"
            )
    if settings.image_pairs:
        read_images_of_pairs(settings.image_pairs)
    return {
        name: read_word_list(f"{_KEY}.word_lists.{name}", source)
        for name, source in settings.word_lists.items()
    }


def measure_counterfactuals(
    answer: Answer, split: Split, settings: EvaluationSettings
) -> dict[str, Any] | None:
    """Asks the model about changed examples.

    Args:
        answer: The model.
        split: The examples that are changed.
        settings: What is changed (`counterfactual`), resamples, seed.

    Returns:
        `confidence`, `positive_label`, and `perturbations`: name -> see `measure_perturbation`;
        None where nothing is asked for.

    Raises:
        SettingError: As `check_counterfactuals`.
        UserError: If the model's logits are not finite.
    """
    wanted = settings.counterfactual
    if not wanted.asked_for:
        return None
    lists = check_counterfactuals(wanted, split.info.modality)
    tracked = tracked_labels(split.info.label_names, settings)
    positive = int(tracked[0]) if len(tracked) == 1 else None
    found: dict[str, Perturbation] = {}
    if lists or wanted.templates:
        ids = _chosen(len(split), wanted.examples, settings.seed)
        texts = [bytes(text).decode("utf-8", "replace") for text in split.read(ids).raw]
        for name, words in lists.items():
            found[name] = _swapped(words, texts, ids, answer)
        for name, variants in wanted.templates.items():
            found[name] = _templated(variants, texts, ids, answer)
    if wanted.image_pairs:
        found["image pairs"] = _paired(wanted, settings.seed, answer)
    return {
        "split": split.name,
        "confidence": CONFIDENCE,
        "positive_label": None if positive is None else split.info.label_names[positive],
        "perturbations": {
            name: measure_perturbation(one, positive, settings.bootstrap_resamples, settings.seed)
            for name, one in found.items()
        },
    }


def _paired(wanted: CounterfactualSettings, seed: int, answer: Answer) -> Perturbation:
    original, changed, examples = read_images_of_pairs(str(wanted.image_pairs))
    everybody = np.unique(examples)
    chosen = everybody[_chosen(len(everybody), wanted.examples, seed)]
    kept = np.isin(examples, chosen)
    return Perturbation(
        "image pairs",
        examined=len(chosen),
        examples=examples[kept],
        directions=np.zeros(int(kept.sum()), int),
        direction_names=(f"original{_ARROW}counterfactual",),
        before=_log_probabilities(answer(original[kept])),
        after=_log_probabilities(answer(changed[kept])),
    )


def _chosen(examples: int, most: int, seed: int) -> np.ndarray:
    if examples <= most:
        return np.arange(examples)
    return np.sort(np.random.default_rng(seed).choice(examples, most, replace=False))


def _swapped(
    words: WordList, texts: Sequence[str], ids: np.ndarray, answer: Answer
) -> Perturbation:
    rows, directions, variants = [], [], []
    for group in range(len(words.groups)):
        for row, text in enumerate(texts):
            variant = words.towards(text, group)
            if variant != text:
                rows.append(row)
                directions.append(group)
                variants.append(variant)
    names = tuple(f"to {group}" for group in words.groups)
    if len(words.groups) == 2:
        one, other = words.groups
        names = (f"{other}{_ARROW}{one}", f"{one}{_ARROW}{other}")
    # Only texts that change are asked about, each once however many variants it has.
    asked, place = np.unique(np.asarray(rows, int), return_inverse=True)
    before = _ask([texts[row] for row in asked], answer)
    return Perturbation(
        "word list",
        examined=len(texts),
        examples=ids[np.asarray(rows, int)],
        directions=np.asarray(directions, int),
        direction_names=names,
        before=before[place] if len(rows) else before,
        after=_ask(variants, answer),
    )


def _templated(
    variants: Sequence[str], texts: Sequence[str], ids: np.ndarray, answer: Answer
) -> Perturbation:
    said = [
        _ask([variant.replace("{text}", text) for text in texts], answer) for variant in variants
    ]
    others = len(variants) - 1
    return Perturbation(
        "template",
        examined=len(texts),
        examples=np.tile(ids, others),
        directions=np.repeat(np.arange(others), len(ids)),
        direction_names=tuple(f"{variants[0]}{_ARROW}{other}" for other in variants[1:]),
        before=np.tile(said[0], (others, 1)),
        after=np.concatenate(said[1:]),
    )


def _ask(texts: Sequence[str], answer: Answer) -> np.ndarray:
    if not texts:
        return np.zeros((0, 2))
    raw = np.empty(len(texts), object)
    raw[:] = [text.encode("utf-8") for text in texts]
    return _log_probabilities(answer(raw))


def _log_probabilities(logits: np.ndarray) -> np.ndarray:
    logits = np.asarray(logits, np.float64)
    if not np.isfinite(logits).all():
        raise UserError("the model's logits of changed examples are not finite numbers")
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
