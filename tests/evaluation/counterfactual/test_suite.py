"""Perturbations put to models whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from configs.schema import EvaluationSettings, SettingError
from configs.schema.evaluation import CounterfactualSettings
from data.contracts import DatasetInfo, Examples, Provenance
from evaluation.counterfactual import check_counterfactuals, measure_counterfactuals

TEXTS = ["he is kind", "she is kind", "he met her", "nobody is here", "it rained", "SHE left"]
PRONOUNS = [["male", "female"], ["he", "she"], ["him", "her"]]


class _Texts:
    """A split of TEXTS."""

    name = "test"
    info = DatasetInfo("toy", "text", ("no", "yes"), {}, Provenance("test"))
    labels = np.zeros(len(TEXTS), np.int32)
    groups = {}  # noqa: RUF012, a protocol's member

    def __len__(self):
        return len(TEXTS)

    def read(self, indices):
        raw = np.array([TEXTS[index].encode() for index in indices], object)
        return Examples(raw, self.labels[indices], {})


def _likes_women(raw):
    """Says yes with probability 0.8 where a woman is spoken of, 0.4 otherwise."""
    p = np.array([0.8 if {b"she", b"her", b"SHE"} & set(text.split()) else 0.4 for text in raw])
    return np.log(np.stack([1 - p, p], axis=1))


def _settings(**chosen):
    return EvaluationSettings(
        counterfactual=CounterfactualSettings(**chosen), bootstrap_resamples=200
    )


def _measure(answer=_likes_women, **chosen):
    return measure_counterfactuals(answer, _Texts(), _settings(**chosen))["perturbations"]


def test_flips_and_shifts_are_counted_by_direction():
    found = _measure(word_lists={"pronouns": PRONOUNS})["pronouns"]
    # Towards male: texts 1, 2, 5 change and lose "yes". Towards female: 0 and 2 change; 2 named
    # a woman already, so only 0 flips.
    assert found["examined"] == 6
    assert found["changed"] == 4
    assert found["pairs"] == 5
    assert found["flip_rate"] == pytest.approx(4 / 5)
    low, high = found["flip_rate_interval"]
    assert 0.2 < low < 0.8 < high < 1
    assert found["score_shift"]["mean"] == pytest.approx(4 * 0.4 / 5)
    assert found["score_shift"]["low"] <= 0.32 <= found["score_shift"]["high"]
    to_male, to_female = (found["directions"][n] for n in ("female → male", "male → female"))
    assert (to_male["pairs"], to_male["flips_from_positive"]) == (3, 3)
    assert to_male["signed_shift"]["mean"] == pytest.approx(-0.4)
    assert (to_female["pairs"], to_female["flips_to_positive"]) == (2, 1)
    assert to_female["signed_shift"]["mean"] == pytest.approx(0.2)
    assert found["largest"][0]["shift"] == pytest.approx(0.4)
    assert "kind" not in str(found["largest"])  # positions, never texts


def test_a_model_that_does_not_care_does_not_move():
    found = _measure(
        lambda raw: np.zeros((len(raw), 2)),
        word_lists={"pronouns": PRONOUNS},
        templates={"sex": ["a man: {text}", "a woman: {text}"]},
    )
    for one in found.values():
        assert one["flip_rate"] == 0.0
        assert one["score_shift"] == {"mean": 0.0, "low": 0.0, "high": 0.0}
        assert one["flip_rate_interval"][1] > 0.2  # so few examples prove little


def test_templates_change_every_example():
    found = _measure(templates={"sex": ["he {text}", "she {text}", "they {text}"]})["sex"]
    assert found["pairs"] == 12
    assert found["changed"] == 6
    one, other = found["directions"].values()
    assert one["signed_shift"]["mean"] == pytest.approx(3 / 6 * 0.4)
    assert other["signed_shift"]["mean"] == pytest.approx(0.0)


def test_a_list_whose_terms_do_not_occur_says_so():
    found = _measure(word_lists={"fish": [["sea", "river"], ["cod", "trout"]]})["fish"]
    assert found["flip_rate"] is None
    assert "no example holds" in found["reason"]


def test_no_more_examples_are_examined_than_asked_for():
    assert _measure(word_lists={"pronouns": PRONOUNS}, examples=3)["pronouns"]["examined"] == 3


def test_nothing_asked_for_is_nothing_measured():
    assert measure_counterfactuals(_likes_women, _Texts(), EvaluationSettings()) is None


def _image(path, brightness):
    Image.new("L", (4, 4), brightness).save(path)


class _Images(_Texts):
    info = DatasetInfo("toy", "image", ("dark", "light"), {}, Provenance("test"))


def test_image_pairs_are_read_beside_their_file(tmp_path):
    for name, brightness in (("a", 10), ("b", 20), ("c", 250)):
        _image(tmp_path / f"{name}.png", brightness)
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("original,counterfactual,note\na.png,b.png,x\na.png,c.png,y\n")
    known = {
        (tmp_path / f"{n}.png").read_bytes(): p for n, p in (("a", 0.1), ("b", 0.2), ("c", 0.9))
    }

    def answer(raw):
        p = np.array([known[image] for image in raw])
        return np.log(np.stack([1 - p, p], axis=1))

    found = measure_counterfactuals(answer, _Images(), _settings(image_pairs=str(pairs)))
    pair = found["perturbations"]["image pairs"]
    assert pair["flip_rate"] == 0.5
    assert pair["score_shift"]["mean"] == pytest.approx(0.45)
    # Both are of one image, so that there is one example to be sure by.
    assert (pair["pairs"], pair["changed"], pair["examined"]) == (2, 1, 1)


def test_no_more_images_are_examined_than_asked_for_each_with_all_its_pairs(tmp_path):
    rows = ["original,counterfactual"]
    for index in range(6):
        _image(tmp_path / f"{index}.png", 10 * index)
        rows += [f"{index}.png,{other}.png" for other in range(6) if other != index]
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("\n".join(rows))
    asked = _settings(image_pairs=str(pairs), examples=2)
    found = measure_counterfactuals(lambda raw: np.zeros((len(raw), 2)), _Images(), asked)
    pair = found["perturbations"]["image pairs"]
    assert (pair["pairs"], pair["changed"], pair["examined"]) == (10, 2, 2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "a CSV file of image pairs"),
        ("a,b\n1,2\n", "columns original and counterfactual"),
        ("original,counterfactual\n", "there is none"),
        ("original,counterfactual\nx.png,y.png\n", "an image file in row 2"),
    ],
)
def test_pairs_that_cannot_be_read_are_refused(tmp_path, content, message):
    path = tmp_path / "pairs.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SettingError, match=message):
        check_counterfactuals(CounterfactualSettings(image_pairs=str(path)), "image")


def test_words_of_images_and_images_of_words_are_refused():
    with pytest.raises(SettingError, match=r"image_pairs: expected nothing: it changes image"):
        check_counterfactuals(CounterfactualSettings(image_pairs="pairs.csv"), "text")
    with pytest.raises(SettingError, match=r"word_lists: expected nothing: it changes text"):
        check_counterfactuals(CounterfactualSettings(word_lists={"p": PRONOUNS}), "image")
