"""The file layer: whole or absent, on a disk and in an object store, and said clearly."""

from __future__ import annotations

import os
import resource

import pytest

from configs.schema import UserError
from training.files import (
    append_durably,
    on_disk,
    path_of,
    remove_leavings,
    remove_tree,
    staged,
    upload_tree,
    write_atomically,
)


@pytest.fixture(params=["disk", "store"])
def place(request, tmp_path):
    """A folder on a disk, and one in an object store."""
    return tmp_path if request.param == "disk" else path_of(f"memory://{tmp_path}")


@pytest.fixture
def full_disk():
    """No file may grow beyond 1,000 bytes: the kernel refuses as it does on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.fixture
def read_only(tmp_path):
    """A folder that may not be written to, also for a superuser, who is somebody else meanwhile."""
    folder = tmp_path / "kept"
    folder.mkdir()
    (folder / "file").write_text("old")
    (folder / "file").chmod(0o644)
    tmp_path.chmod(0o755)
    folder.chmod(0o555)
    for parent in tmp_path.parents:
        if not parent.stat().st_mode & 0o001:
            parent.chmod(0o755)
    superuser = os.geteuid() == 0
    if superuser:
        os.seteuid(65_534)
    yield folder
    if superuser:
        os.seteuid(0)
    folder.chmod(0o755)


def test_what_is_written_is_read(place):
    write_atomically(place / "a.txt", "one\n")
    append_durably(place / "a.txt", "two\n")
    assert (place / "a.txt").read_text() == "one\ntwo\n"
    assert [path.name for path in place.iterdir()] == ["a.txt"]


def test_staged_folder_is_there_when_the_block_ends(place):
    target = place / "checkpoints" / "step-1"
    with staged(target, last="position.json") as folder:
        (folder / "data").write_bytes(b"1" * 10_000)
        (folder / "position.json").write_text("{}")
        assert not target.exists()
    with on_disk(target) as copy:
        assert {p.name: p.stat().st_size for p in copy.iterdir()} == {
            "data": 10_000,
            "position.json": 2,
        }
    remove_tree(target)
    assert not target.exists()


def stage(target, *names: str, size: int = 10, fails: bool = False) -> None:
    with staged(target, last="a") as folder:
        for name in names:
            (folder / name).write_bytes(b"1" * size)
        if fails:
            raise ZeroDivisionError


def test_staged_folder_is_absent_when_the_block_fails(place):
    with pytest.raises(ZeroDivisionError):
        stage(place / "step-1", "a", fails=True)
    assert not place.exists() or not list(place.iterdir())


def test_manifest_is_uploaded_last(tmp_path):
    """An upload that breaks off leaves no manifest: here at a name that the store refuses."""
    remote = path_of(f"memory://{tmp_path}/step-1")
    (remote / "zz").mkdir(parents=True)  # a folder where a file is to be
    with pytest.raises(UserError, match="step-1: cannot be written"):
        stage(remote, "a", "b", "zz")
    assert not (remote / "a").exists()
    assert (remote / "b").exists()


def test_folders_are_uploaded_with_what_is_in_them(tmp_path):
    (tmp_path / "plugins" / "profile").mkdir(parents=True)
    (tmp_path / "plugins" / "profile" / "trace").write_text("t")
    remote = path_of(f"memory://{tmp_path}/logs")
    upload_tree(tmp_path, remote)
    assert (remote / "plugins" / "profile" / "trace").read_text() == "t"


def test_full_disk_leaves_the_old_file_and_no_half_one(tmp_path, full_disk):
    path = tmp_path / "a.txt"
    write_atomically(path, "old\n")
    with pytest.raises(UserError, match=r"a\.txt: cannot be written \(File too large\)"):
        write_atomically(path, "x" * 10_000)
    with pytest.raises(UserError, match=r"a\.txt: cannot be written \(no room for another line\)"):
        append_durably(path, "x" * 10_000)
    with pytest.raises(UserError, match="step-1: cannot be written"):
        stage(tmp_path / "step-1", "a", size=10_000)
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"a.txt": "old\n"}


def test_read_only_folder_is_named(read_only):
    for write in (write_atomically, append_durably):
        with pytest.raises(UserError, match=r"kept/file: cannot be written \(Permission denied\)"):
            write(read_only / "file", "new")
    assert (read_only / "file").read_text() == "old"


def test_leavings_of_a_killed_process_are_removed(tmp_path):
    for kept in ("ledger.jsonl", "checkpoints/step-00000003/a", "export/saved_model/b", ".lock"):
        (tmp_path / kept).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / kept).write_text("x")
    before = sorted(tmp_path.rglob("*"))
    for leaving in (".config.yaml.123.partial", "checkpoints/.step-00000006.partial/variables"):
        (tmp_path / leaving).parent.mkdir(exist_ok=True)
        (tmp_path / leaving).write_text("half")
    (tmp_path / "export" / ".saved_model.abc" / "saved_model").mkdir(parents=True)
    remove_leavings(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("url", ["nothing://a/b", "gs://bucket/a"])
def test_url_without_its_package_says_what_to_install(url):
    try:
        import gcsfs  # noqa: F401
    except ImportError:
        pass
    else:
        if url.startswith("gs"):
            pytest.skip("gcsfs is installed")
    with pytest.raises(UserError, match=r"pip install -e '\.\[remote\]'"):
        path_of(url)


def test_file_url_is_a_path(tmp_path):
    assert path_of(f"file://{tmp_path}") == tmp_path
