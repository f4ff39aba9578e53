"""What counterparts of images do: digits on paper whose tone goes with the digit, and swaps of it.

    python -m benchmarks.image_swaps
    python -m benchmarks.image_swaps --seeds 1 --folder digits    # keep the images

scikit-learn's handwritten digits are written to disk twice, on dark paper and on light. Of the
training images nine of ten even digits lie on dark paper and nine of ten odd ones on light; of the
test images half, whatever the digit. A counterpart is the same digit on the other paper. A small
network is trained with `fairness.swaps.image_pairs` and without, plain and with privacy. One table:
accuracy on the test images, and how many answers flip when the paper is the other.
"""

from __future__ import annotations

import argparse
import csv
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fairness import mean_and_spread

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

_TONES = {"dark": 0.0, "light": 0.6}
_TRAIN = 1300
_FAITHFUL = 0.9
_EPSILON = 8.0


def write_digits(folder: Path) -> None:
    """Writes images, `train.csv` and `test.csv` (path, label, paper), and pairs of either."""
    from PIL import Image
    from sklearn.datasets import load_digits

    digits, random = load_digits(), np.random.default_rng(0)
    rows: dict[str, list[list[str]]] = {name: [] for name in ("train", "test")}
    pairs: dict[str, list[list[str]]] = {name: [] for name in ("train", "test")}
    for paper in _TONES:
        (folder / paper).mkdir(parents=True, exist_ok=True)
    for number in random.permutation(len(digits.target)):
        label = int(digits.target[number])
        split = "train" if len(rows["train"]) < _TRAIN else "test"
        usual = list(_TONES)[label % 2]
        other = list(_TONES)[1 - label % 2]
        keeps = random.random() < (_FAITHFUL if split == "train" else 0.5)
        papers = (usual, other) if keeps else (other, usual)
        for paper in papers:
            ink = digits.images[number] / 16  # (8, 8)
            pixels = _TONES[paper] + (1 - _TONES[paper]) * ink
            image = Image.fromarray(np.rint(255 * pixels).astype(np.uint8))
            image.save(folder / paper / f"{number}.png")
        rows[split].append([f"{papers[0]}/{number}.png", str(label), papers[0]])
        pairs[split].append([f"{paper}/{number}.png" for paper in papers])
    for split in rows:
        _write(folder / f"{split}.csv", ["path", "label", "paper"], rows[split])
        name = "pairs.csv" if split == "train" else "test_pairs.csv"
        _write(folder / name, ["original", "counterfactual"], pairs[split])


def _write(path: Path, header: list[str], rows: list[list[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def recipe_of(folder: Path, *, swapped: bool, private: bool, seed: int) -> Any:
    """The recipe of one run."""
    from configs import schema
    from configs.schema.evaluation import CounterfactualSettings

    return schema.Recipe(
        data=schema.DataSettings(
            source="image_folder",
            image_folder=schema.ImageFolderSettings(
                train=str(folder / "train.csv"), test=str(folder / "test.csv"), groups=["paper"]
            ),
        ),
        model=schema.ModelSettings(
            name="mlp", mlp=schema.MlpSettings(hidden_units=[64], image_size=8)
        ),
        training=schema.TrainingSettings(
            steps=300,
            batch_size=256,
            optimizer=schema.OptimizerSettings(learning_rate=0.01, schedule="cosine"),
            seed=seed,
        ),
        privacy=schema.PrivacySettings(enabled=True, epsilon=_EPSILON, clipping_norm=1.0)
        if private
        else schema.PrivacySettings(),
        fairness=schema.FairnessSettings(
            swaps=schema.SwapSettings(image_pairs=str(folder / "pairs.csv") if swapped else None)
        ),
        evaluation=schema.EvaluationSettings(
            counterfactual=CounterfactualSettings(image_pairs=str(folder / "test_pairs.csv")),
            bootstrap_resamples=0,
            permutations=0,
        ),
    )


def measured(recipe: Any) -> dict[str, float]:
    """Trains by a recipe; accuracy, flips and shift on the test images, epsilon."""
    from data import batches_in_order, prepare
    from evaluation import answer_raw, measure_counterfactuals, predict_batches
    from training.privacy.ledger import Ledger
    from training.run_directory import RunDirectory
    from training.session import open_session

    session = open_session(recipe)
    built, test = session.model.built, session.dataset.test
    with tempfile.TemporaryDirectory() as place:
        run = RunDirectory.at(place)
        ledger = None if session.plan is None else Ledger(run.ledger, session.plan)
        session.loop(run, [], ledger, verbose=0).run()
        epsilon = float("inf") if ledger is None else ledger.epsilon
    batches = batches_in_order(prepare(test, built.preprocess), 256)
    found = predict_batches(built.model, batches, session.dataset.info, "test")
    changed = measure_counterfactuals(
        answer_raw(built.model, built.preprocess, 256), test, recipe.evaluation
    )
    assert changed is not None
    pairs = changed["perturbations"]["image pairs"]
    return {
        "accuracy": float((found.logits.argmax(axis=1) == found.labels).mean()),
        "flips": pairs["flip_rate"],
        "shift": pairs["score_shift"]["mean"],
        "epsilon": epsilon,
    }


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.image_swaps", description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="runs of each row")
    parser.add_argument("--folder", default=None, help="where the images are kept")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(arguments.folder or temporary).resolve()
        write_digits(folder)
        print("| run | accuracy | answers that flip | mean shift of the score | ε |")
        print("|---|---|---|---|---|")
        for private in (False, True):
            for swapped in (False, True):
                runs = [
                    measured(recipe_of(folder, swapped=swapped, private=private, seed=seed))
                    for seed in range(arguments.seeds)
                ]
                name = f"{'private' if private else 'plain'}{', swaps' if swapped else ''}"
                cells = [mean_and_spread([run[key] for run in runs], digits=3) for key in runs[0]]
                print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
