"""How an exported model is called, in words: a file that goes with it.

The signature is the contract of a served model, and TensorFlow's error for a call that does not
keep it is long and does not say what was meant. So whoever gets the export also gets this.
"""

from __future__ import annotations

from collections.abc import Sequence

from models.contracts import BuiltModel
from models.decision_rule import DecisionRule
from models.export import INPUT_NAMES

NAME = "serving.txt"
_INPUTS = {
    "text": "string (batch,), UTF-8 texts; import tensorflow_text first",
    "image": "string (batch,), the bytes of an image file each, of any size",
    "features": "float32 (batch, {width}), in the order in which the recipe names them",
}


def serving_notes(
    built: BuiltModel, label_names: Sequence[str], rule: DecisionRule | None = None
) -> str:
    """What to call, with what, and what comes back; a few lines of plain text.

    Args:
        built: The model and its preprocessor.
        label_names: Label values in index order.
        rule: As the model was exported with.
    """
    modality = built.preprocess.modality
    name = INPUT_NAMES[modality]
    width = built.model.input["features"].shape[-1] if modality == "features" else 0
    lines = [
        "Signatures of this SavedModel: tf.saved_model.load(folder).signatures[NAME], or NAME as",
        "signature_name of a request to TensorFlow Serving. Every input has a row per example.",
        "",
        f"serving_default({name})",
        f"  {name}: {_INPUTS[modality].format(width=width)}",
        f"  gives probabilities (of {', '.join(label_names)}, in this order), label, label_index.",
    ]
    if rule is None:
        return "\n".join(lines) + "\n"
    takes_group = rule.attribute is not None
    lines += ["", f"decide({name}, group)" if takes_group else f"decide({name})"]
    if takes_group:
        lines += [
            f"  group: required; string (batch,), the {rule.attribute} of each example, one of",
            f"    {', '.join(rule.groups)}",
            "    Thresholds differ by group, so there is no decision without one: a call without",
            "    group ends in TensorFlow's error that this argument is missing (a TypeError in",
            "    Python), one with another name in an InvalidArgumentError that lists these. Where",
            "    the group is not known, serving_default still gives probabilities; its label is",
            "    that of the largest, which no threshold has touched.",
        ]
    lines += [
        "  gives decision (a label, or abstain), decision_index (-1: abstain),",
        "  selection_probability and probabilities. The same example gets the same decision.",
    ]
    return "\n".join(lines) + "\n"
