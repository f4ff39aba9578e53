"""What is said of a call is what the SavedModel's signatures take and give."""

from __future__ import annotations

import pytest
import tensorflow as tf

import models
from configs.schema import CnnSettings, MlpSettings, ModelSettings
from models.decision_rule import AT_HALF, DecisionRule
from models.serving_notes import serving_notes

BY_GROUP = DecisionRule(1, "sex", {"Female": AT_HALF, "Male": AT_HALF})
RULES = {"none": None, "abstains": DecisionRule(1, None, {"": AT_HALF}, 0.1), "groups": BY_GROUP}


def built(modality: str) -> models.BuiltModel:
    if modality == "image":
        settings = ModelSettings(name="cnn", cnn=CnnSettings(image_size=16))
        return models.build(settings, num_classes=2, modality="image", seed=0)
    settings = ModelSettings(name="mlp", mlp=MlpSettings(hidden_units=[4]))
    return models.build(settings, num_classes=2, modality=modality, input_shape=(5,), seed=0)


@pytest.mark.parametrize("modality", ["features", "image"])
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_notes_name_every_input_and_output_of_every_signature(tmp_path, modality, rule):
    model = built(modality)
    labels = ["no", "yes"]
    models.export_saved_model(model, tmp_path, label_names=labels, assets={}, rule=rule)
    notes = serving_notes(model, labels, rule)
    signatures = tf.saved_model.load(str(tmp_path)).signatures
    for name, signature in signatures.items():
        inputs = list(signature.structured_input_signature[1])
        inputs.sort(key="group".__eq__)
        call = f"\n{name}({', '.join(inputs)})\n"
        assert call in notes
        said = notes.split(call)[1].split("\n\n")[0]
        for output in signature.structured_outputs:
            assert output in said
    assert notes.count("\n\n") == len(signatures)
    assert ("one of\n    Female, Male\n" in notes) == (rule is BY_GROUP)
    assert ("(batch, 5)" in notes) == (modality == "features")
