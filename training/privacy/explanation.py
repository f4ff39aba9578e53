"""How each trained variable will be clipped, and what that costs: the engine's choices in words.

Traces one private step, runs nothing. Costs come from static shapes (`cost_model`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from training.privacy.book_keeping import PerExampleLoss, per_example_gradients
from training.privacy.cost_model import Form, MatrixWork
from training.privacy.inspection import inputs_of
from training.privacy.norms import MatrixGradient, PerExampleGradient
from training.privacy.rules import owned_variables
from training.privacy.sites import find_sites

# What the loss does not reach has no gradient to clip.
_UNREACHED = "not reached by the loss"


@dataclass(frozen=True)
class Explanation:
    """How one variable is clipped.

    Attributes:
        variable: Its path.
        rule: The rule of the layer that is tapped for it.
        form: "ghost", "instantiate" or "recompute" where there was a choice; else the kind of
            factored gradient.
        work: Shapes and costs, where there was a choice.
    """

    variable: str
    rule: str
    form: str
    work: MatrixWork | None


def explain(
    model: keras.Model,
    loss: PerExampleLoss,
    batch_size: int,
    memory_bytes: float | None = None,
    rows_per_record: int = 1,
) -> list[Explanation]:
    """Explains every trained variable of `model`, in the model's order.

    Args:
        model: A built model; sizes that its inputs leave open are taken as 8.
        loss: Per-example loss of class labels.
        batch_size: Examples in a physical batch.
        memory_bytes: As in `training.privacy.norms.within_memory`.
        rows_per_record: Of those examples, how many in a row are one user's.

    Raises:
        UserError: If the model cannot be private; names layer and remedy.
    """
    sites = find_sites(model)
    found: dict[int, PerExampleGradient] = {}

    @tf.function(autograph=False)
    def trace(inputs: Any) -> tf.Tensor:
        labels = tf.zeros([batch_size], tf.int32)
        mask = tf.ones([batch_size], tf.bool)
        kept = per_example_gradients(
            model, loss, inputs, labels, mask, sites, rows_per_record, memory_bytes
        )
        found.update(kept.gradients)
        return kept.losses

    def specification(tensor: Any) -> tf.TensorSpec:
        sizes = [8 if size is None else size for size in tensor.shape[1:]]
        return tf.TensorSpec([batch_size, *sizes], tensor.dtype)

    trace.get_concrete_function(tf.nest.map_structure(specification, inputs_of(model)))
    rules = {
        id(variable): type(sites.rule_for(site)).__name__
        for site in sites
        for variable in (
            site.trainable_variables if sites.rule_for(site).covers_inner else owned_variables(site)
        )
    }
    return [
        _explained(variable, rules.get(id(variable), ""), found.get(id(variable)))
        for variable in model.trainable_variables
    ]


def _explained(
    variable: keras.Variable, rule: str, gradient: PerExampleGradient | None
) -> Explanation:
    if isinstance(gradient, MatrixGradient):
        return Explanation(variable.path, rule, gradient.chosen_form.value, gradient.work)
    kind = _UNREACHED if gradient is None else type(gradient).__name__
    return Explanation(variable.path, rule, kind, None)


def print_explanations(explanations: Sequence[Explanation]) -> None:
    """Prints a table; gigaflops and megabytes of each form that could have been taken."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="How each trained variable is clipped (costs of one physical batch)")
    for name in ("variable", "rule", "form"):
        table.add_column(name, overflow="fold")
    for form in Form:
        table.add_column(f"{form.value}\nGFLOP / moved MB / kept MB", justify="right")
    for line in explanations:
        costs = ["" if line.work is None else _costs(line.work, form) for form in Form]
        table.add_row(line.variable, line.rule, line.form, *costs)
    console = Console()
    # Into a file or a pipe the table keeps its width, whatever the terminal's.
    (console if console.is_terminal else Console(width=160)).print(table)
    kept = sum(
        line.work.kept_bytes(Form(line.form)) for line in explanations if line.work is not None
    )
    console.print(f"Per-example gradients kept between norm and sum: {kept / 1e6:.0f} MB.")


def _costs(work: MatrixWork, form: Form) -> str:
    flops, moved, kept = work.flops(form), work.bytes_moved(form), work.kept_bytes(form)
    return f"{flops / 1e9:.2f} / {moved / 1e6:.1f} / {kept / 1e6:.1f}"
