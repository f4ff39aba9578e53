"""Settings of the `evaluation` section: what is measured, and of whom."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Optional

from configs.schema.errors import require, require_once_each
from configs.schema.word_lists import require_word_lists


@dataclass(frozen=True)
class CounterfactualSettings:
    """What is changed in an example, to see whether the answer changes with it.

    Attributes:
        word_lists: For text: name -> interchangeable terms. Either the path of a CSV file, a row
            per term and a column per group (`he,she` under a header `male,female`), or the same
            rows written here, the first being the header: [[male, female], [he, she]].
        templates: For text: name -> variants of every text, such as
            {sex: ["a man, {text}", "a woman, {text}"]}.
        image_pairs: For images: path of a CSV file whose columns `original` and `counterfactual`
            hold paths relative to it.
        examples: Most examples of the split examined by each list and template; drawn evenly.
    """

    word_lists: dict[str, Any] = field(default_factory=dict)
    templates: dict[str, list[str]] = field(default_factory=dict)
    image_pairs: Optional[str] = None
    examples: int = 1000

    def __post_init__(self) -> None:
        key = "evaluation.counterfactual"
        require(self.examples >= 1, f"{key}.examples", self.examples, "a whole number >= 1")
        require_word_lists(f"{key}.word_lists", self.word_lists)
        for name, variants in self.templates.items():
            require(
                len(set(variants)) == len(variants) >= 2
                and all("{text}" in variant for variant in variants),
                f"{key}.templates.{name}",
                variants,
                "two texts or more, none of them twice, each with {text} where the example goes",
            )
        twice = sorted(set(self.word_lists) & set(self.templates))
        require(not twice, f"{key}.templates", twice, "names that no word list has")

    @property
    def asked_for(self) -> bool:
        """Whether there is anything to change."""
        return bool(self.word_lists or self.templates or self.image_pairs)


@dataclass(frozen=True)
class EvaluationSettings:
    """What is measured, and of whom.

    Attributes:
        attributes: Group attributes to compare; none takes every attribute of the data.
        intersections: Most attributes crossed with one another; 1 compares each alone.
        soft_groups: Attribute whose groups are inferred -> path of a CSV file with a column per
            group and a row of probabilities for each record of the data's file, in its order, that
            a split is read or cut from; {split} in the path stands for that file's split (`train`
            for what is cut from it).
        positive_label: Label counted as the favourable decision in selection rates; none takes
            the last label of a two-label task, and one-vs-rest otherwise.
        minimum_group_size: Groups with fewer examples are listed, with their uncertainty, but
            kept out of the gaps.
        bootstrap_resamples: Resamples behind the 95 % intervals; 0 for none.
        permutations: Permutations behind the p-values of gaps; 0 for none.
        counterfactual: What is changed in examples to see whether answers change.
        batch_size: Examples per evaluation batch.
        seed: Seed of bootstrap, permutations and the choice of counterfactual examples.
    """

    attributes: Optional[list[str]] = None
    intersections: int = 2
    soft_groups: dict[str, str] = field(default_factory=dict)
    positive_label: Optional[str] = None
    minimum_group_size: int = 30
    bootstrap_resamples: int = 500
    permutations: int = 500
    counterfactual: CounterfactualSettings = field(default_factory=CounterfactualSettings)
    batch_size: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (
            ("intersections", 1),
            ("minimum_group_size", 1),
            ("bootstrap_resamples", 0),
            ("permutations", 0),
            ("batch_size", 1),
        ):
            value = getattr(self, name)
            require(value >= least, f"evaluation.{name}", value, f"a whole number >= {least}")
        require_once_each("evaluation.attributes", self.attributes or ())
