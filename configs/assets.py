"""Where the embedded data and weights lie, and proof that they are the ones we know.

Every embedded file is used only after its SHA-256 was compared with the one written in the code
that reads it. Free of TensorFlow; both the data room and the model room come here.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from configs.schema.errors import UserError

FETCH_COMMAND = "make assets (or: python -m scripts.assets)"
_BLOCK_BYTES = 1 << 20


def asset_directory(setting: str | None = None) -> Path:
    """Returns the folder of embedded assets; it need not exist.

    Args:
        setting: `data.asset_dir` or `model.asset_dir`. None looks at the environment variable
            STERLING_ASSETS, then takes `assets/` beside this program.
    """
    chosen = setting or os.environ.get("STERLING_ASSETS")
    return Path(chosen).expanduser() if chosen else Path(__file__).resolve().parents[1] / "assets"


def sha256_of(path: Path) -> str:
    """Returns the SHA-256 of a file's bytes in lower-case hexadecimal, read block by block."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def require_asset(relative_path: str, sha256: str, asset_dir: str | Path | None = None) -> Path:
    """Returns the path of an embedded file whose content is proven to be the one expected.

    Args:
        relative_path: Path below the asset folder, with forward slashes.
        sha256: Expected SHA-256, lower-case hexadecimal.
        asset_dir: The asset folder; None and settings resolve through `asset_directory`.

    Raises:
        UserError: The file is missing or differs; the line says which command fetches it.
    """
    path = asset_directory(None if asset_dir is None else str(asset_dir)) / relative_path
    if not path.is_file():
        raise UserError(f"Embedded asset {path} is missing. Fetch it with: {FETCH_COMMAND}")
    found = sha256_of(path)
    if found != sha256:
        raise UserError(
            f"Embedded asset {path} is not the file it should be: SHA-256 {found}, expected "
            f"{sha256}. Delete it and fetch it again with: {FETCH_COMMAND}"
        )
    return path
