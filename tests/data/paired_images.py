"""A folder of small generated images on disk, each with a counterpart of another background."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from configs.schema import DataSettings, ImageFolderSettings

SIZE = 8
TONES = (70, 190)


def write_images(root: Path, examples: int) -> Path:
    """Writes `examples` images with their counterparts, and the CSV files that list them.

    A bright bar lies on the side that the label names in eight of ten images, and the background is
    of the tone that goes with the label in nine: whoever answers by both leans on the tone. A
    counterpart has the same bar on the other tone.

    Returns:
        The folder: `images.csv` (path, label, tone), `pairs.csv`, `own/`, `other/`.
    """
    rng = np.random.default_rng(0)
    (root / "own").mkdir(parents=True)
    (root / "other").mkdir()
    images, pairs = ["path,label,tone"], ["original,counterfactual"]
    for number in range(examples):
        label = int(rng.random() < 0.5)
        tone = label if rng.random() < 0.9 else 1 - label
        side = label if rng.random() < 0.8 else 1 - label
        noise = rng.integers(-20, 21, (SIZE, SIZE))
        for place, background in (("own", TONES[tone]), ("other", TONES[1 - tone])):
            pixels = background + noise
            pixels[2:6, 5 * side : 5 * side + 3] += 40
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(
                root / place / f"{number}.png"
            )
        images.append(f"own/{number}.png,{['left', 'right'][label]},{['dark', 'light'][tone]}")
        pairs.append(f"own/{number}.png,other/{number}.png")
    (root / "images.csv").write_text("\n".join(images) + "\n")
    (root / "pairs.csv").write_text("\n".join(pairs) + "\n")
    return root


def settings_of(root: Path, **settings: object) -> DataSettings:
    """The data section that reads them."""
    folder = ImageFolderSettings(train=str(root / "images.csv"), groups=["tone"])
    return DataSettings(source="image_folder", image_folder=folder, **settings)
