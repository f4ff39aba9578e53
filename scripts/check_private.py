"""Checks whether a model can be trained privately; lists every problem, converts where it can.

A recipe, or a model of your own in a `.keras` file:

    sterling check-private RECIPE.yaml [--explain] [--convert group --output NEW.yaml]
    sterling check-private MODEL.keras [--explain] [--convert frozen --output NEW.keras]

Of a recipe with privacy also what its plan and fairness settings would be refused for.

`--convert` exchanges batch normalization, which mixes examples: `frozen` keeps its statistics as
constants, and with them what the model computes; `group` learns anew without any.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import jsonargparse

from configs.schema import FairnessSettings, Recipe, SettingError, UserError, require
from scripts.arguments import (
    new_parser,
    parse,
    parse_sections,
    recipe_parser,
    recipe_text,
    say_default,
)
from scripts.command import run_command, start_tensorflow

# What `--convert` is called -> what a ResNet50's recipe calls it.
Conversion = Literal["group", "frozen"]
_CONVERSIONS: dict[Conversion, Literal["group", "frozen_batch"]] = {
    "group": "group",
    "frozen": "frozen_batch",
}


def main(argv: Sequence[str]) -> None:
    """Body of `sterling check-private`."""
    argv = _with_model_named(list(argv))
    if any(argument == "--model" or argument.startswith("--model=") for argument in argv):
        parser = new_parser("check-private", "--model MODEL.keras", __doc__)
        parser.add_argument("--model", help="A model saved by Keras.")
        _add_conversion(parser)
        _add_explanation(parser)
        parser.add_argument(
            "--batch-size", type=int, default=32, help="Examples that the explanation is for."
        )
        options = parse(parser, argv)
        output = _output(options, ".keras")
        require(options.batch_size > 0, "--batch-size", options.batch_size, "a positive number")
        start_tensorflow(debug=options.debug)
        check_file(Path(options.model), options.convert, output)
        if options.explain:
            explain_file(output or Path(options.model), options.batch_size)
        return
    parser = recipe_parser("check-private", "[RECIPE.yaml]", __doc__)
    _add_conversion(parser)
    _add_explanation(parser)
    sections, _, options = parse_sections(parser, argv)
    refused = _set_aside_refused(sections)
    recipe = Recipe(**sections)
    output = _output(options, ".yaml")
    say_default(argv, recipe)
    start_tensorflow(debug=options.debug)
    check(recipe, options.convert, output, refused)
    if options.explain:
        explain_recipe(recipe)


def check(
    recipe: Recipe,
    convert: Conversion | None = None,
    output: Path | None = None,
    refused: Sequence[UserError] = (),
) -> None:
    """Prints "no problem found", or every problem; writes the converted recipe if asked for.

    Args:
        recipe: What is to be checked.
        convert, output: How to convert its model, and where to write the recipe that does.
        refused: Problems of the recipe as it was written, which this one was made without.

    Raises:
        UserError: If a problem is left; says how many, after they were printed.
    """
    name = f"model {recipe.model.name}"
    problems = _report(name, [*refused, *_problems_of_recipe(recipe)])
    if not problems or convert is None or output is None:
        _refuse(name, problems)
        return
    if recipe.model.name != "resnet50":
        raise UserError(f"{name}: has no setting that could be converted. See the remedies above.")
    resnet = replace(recipe.model.resnet50, normalization=_CONVERSIONS[convert])
    converted = replace(recipe, model=replace(recipe.model, resnet50=resnet))
    left = [*refused, *_problems_of_recipe(converted)]
    _refuse(f"{name}, converted", _report(f"{name}, converted", left))

    from training.files import write_atomically

    write_atomically(output, recipe_text(converted))
    print(f"{output}: model.resnet50.normalization is {resnet.normalization}")


def explain_recipe(recipe: Recipe) -> None:
    """Prints how the engine clips each trained variable of the recipe's model."""
    import data
    from training.losses import recipe_loss
    from training.privacy.explanation import explain, print_explanations
    from training.session import build_model

    dataset = data.load(recipe.data)
    loss = recipe_loss(recipe, dataset.info.label_names)
    budget = recipe.privacy.memory_budget
    rows = recipe.privacy.examples_per_user or 1
    print_explanations(
        explain(
            build_model(recipe, dataset).model,
            loss,
            recipe.training.physical_batch_size or rows * recipe.training.batch_size,
            None if budget is None else 1e9 * budget,
            rows,
        )
    )


def check_file(path: Path, convert: Conversion | None = None, output: Path | None = None) -> None:
    """The same for a model in a `.keras` file.

    Raises:
        UserError: If the file cannot be read, or a problem is left.
    """
    from models import load_keras, save_keras
    from training.privacy.conversion import to_private
    from training.privacy.inspection import problems_of

    model = load_keras(path)
    if not getattr(model, "inputs", None):
        raise UserError(
            f"{path}: {type(model).__name__} does not say what its inputs are, so it cannot be "
            "looked over ahead. make_private looks it over with the first examples."
        )
    problems = _report(str(path), problems_of(model))
    if not problems or convert is None or output is None:
        _refuse(str(path), problems)
        return
    converted = to_private(model, convert)
    _refuse(str(output), _report(f"{path}, converted", problems_of(converted)))
    save_keras(converted, output)
    print(f"{output}: written")


def explain_file(path: Path, batch_size: int) -> None:
    """Prints how the engine clips each trained variable of a model in a `.keras` file."""
    import tensorflow as tf

    from models import load_keras
    from training.privacy.explanation import explain, print_explanations

    def any_loss(labels: tf.Tensor, outputs: Any) -> tf.Tensor:
        # The choices hang on shapes, not on what is made of the outputs.
        return tf.add_n(
            [tf.reduce_sum(x, range(1, len(x.shape))) for x in tf.nest.flatten(outputs)]
        )

    print_explanations(explain(load_keras(path), any_loss, batch_size))


def _set_aside_refused(sections: dict[str, Any]) -> list[UserError]:
    """Why the fairness section cannot be had with privacy; the rest is looked at without it."""
    if not sections["privacy"].enabled:
        return []
    try:
        sections["fairness"].require_private()
    except SettingError as error:
        sections["fairness"] = FairnessSettings()
        return [error]
    return []


def _problems_of_recipe(recipe: Recipe) -> list[Any]:
    import keras

    import data
    from training.fairness import Mitigation
    from training.losses import recipe_loss
    from training.privacy.inspection import problems_of
    from training.recipe_plan import plan_ahead
    from training.session import build_model

    keras.config.set_dtype_policy(recipe.training.precision)
    dataset = data.load(recipe.data)
    model = build_model(recipe, dataset).model
    loss = recipe_loss(recipe, dataset.info.label_names)
    problems: list[Any] = list(problems_of(model, loss))
    if not recipe.privacy.enabled:
        return problems
    try:
        plan = plan_ahead(recipe, dataset)
    except UserError as error:
        return [*problems, error]
    for check_against_plan in (
        lambda: plan.clipping.grouping([v.path for v in model.trainable_variables]),
        lambda: Mitigation.of(recipe.fairness, dataset, recipe.evaluation.positive_label, plan),
    ):
        try:
            check_against_plan()
        except UserError as error:
            problems.append(error)
    return problems


def _report(name: str, problems: list[Any]) -> list[Any]:
    for problem in problems:
        print(f"- {problem}")
    if not problems:
        print(f"{name}: no problem found")
    return problems


def _refuse(name: str, problems: list[Any]) -> None:
    if problems:
        raise UserError(f"{name}: {len(problems)} problem(s) keep it from being private")


def _add_conversion(parser: jsonargparse.ArgumentParser) -> None:
    parser.add_argument(
        "--convert",
        choices=list(_CONVERSIONS),
        help="Exchange batch normalization for group normalization or fixed statistics.",
    )
    parser.add_argument("--output", help="Where the converted recipe or model is written.")


def _add_explanation(parser: jsonargparse.ArgumentParser) -> None:
    parser.add_argument(
        "--explain",
        action="store_true",
        help="Also say how each trained variable is clipped, and what that costs.",
    )


def _output(options: Any, suffix: str) -> Path | None:
    """Where to write, checked before anything costly."""
    if options.convert is None:
        if options.output is not None:
            raise SettingError("--convert", None, "group or frozen, because --output is given")
        return None
    expected = f"the name of a new {suffix} file, because --convert is given"
    if options.output is None or not options.output.endswith(suffix):
        raise SettingError("--output", options.output, expected)
    output = Path(options.output)
    if output.exists() or not output.parent.is_dir():
        raise SettingError("--output", options.output, f"{expected}, in a folder that exists")
    return output


def _with_model_named(argv: list[str]) -> list[str]:
    """`MODEL.keras` in a recipe's place is a model."""
    if argv and not argv[0].startswith("-") and argv[0].endswith(".keras"):
        return ["--model", *argv]
    return argv


if __name__ == "__main__":
    sys.exit(run_command(main))
