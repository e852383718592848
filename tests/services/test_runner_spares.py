"""Which files of ended jobs may be used again, and what is made in advance."""

import os
import subprocess
from pathlib import Path

import pytest

from services.runner.spares import MOST_BYTES, Places, SpareDirectories, Spares


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path / "places")


@pytest.fixture
def spares(tmp_path: Path, places: Places) -> Spares:
    return Spares(tmp_path / "spare", 0o600, 2, places)


def written(path: Path, content: bytes = b"old") -> Path:
    path.touch(0o600)
    path.write_bytes(content)
    return path


def test_a_file_is_used_again_under_its_new_name_and_empty(spares: Spares, tmp_path: Path) -> None:
    old = written(tmp_path / "j1.out")
    inode = old.stat().st_ino
    spares.keep(old)
    spares.put_at(tmp_path / "j2.out")
    assert not old.exists()
    assert (tmp_path / "j2.out").stat().st_ino == inode
    assert (tmp_path / "j2.out").read_bytes() == b""


def test_without_a_spare_file_a_new_one_takes_the_place(spares: Spares, tmp_path: Path) -> None:
    written(tmp_path / "j1.out")
    spares.put_at(tmp_path / "j1.out")
    assert (tmp_path / "j1.out").read_bytes() == b""
    assert (tmp_path / "j1.out").stat().st_mode & 0o7777 == 0o600


def test_a_file_that_somebody_has_open_is_deleted(spares: Spares, tmp_path: Path) -> None:
    """A process that outlived its job may still write to it."""
    for mode in ("rb", "ab"):
        with open(written(tmp_path / "j1.out"), mode):
            spares.keep(tmp_path / "j1.out")
    assert not (tmp_path / "j1.out").exists()
    assert len(spares) == 0


def test_a_file_with_another_name_is_deleted(spares: Spares, tmp_path: Path) -> None:
    written(tmp_path / "j1.out")
    os.link(tmp_path / "j1.out", tmp_path / "mine")
    spares.keep(tmp_path / "j1.out")
    assert len(spares) == 0
    assert (tmp_path / "mine").read_bytes() == b"old"


def test_a_link_in_its_place_is_deleted_and_not_followed(spares: Spares, tmp_path: Path) -> None:
    written(tmp_path / "precious")
    (tmp_path / "j1.out").symlink_to(tmp_path / "precious")
    spares.keep(tmp_path / "j1.out")
    assert not (tmp_path / "j1.out").is_symlink()
    assert (tmp_path / "precious").read_bytes() == b"old"
    assert len(spares) == 0


@pytest.mark.parametrize("mode", [0o644, 0o700])
def test_a_file_that_others_may_use_is_deleted(spares: Spares, tmp_path: Path, mode: int) -> None:
    written(tmp_path / "j1.out").chmod(mode)
    spares.keep(tmp_path / "j1.out")
    assert len(spares) == 0


def test_a_large_file_is_deleted(spares: Spares, tmp_path: Path) -> None:
    written(tmp_path / "j1.out")
    os.truncate(tmp_path / "j1.out", MOST_BYTES + 1)
    spares.keep(tmp_path / "j1.out")
    assert len(spares) == 0


def test_no_more_are_kept_than_wanted(spares: Spares, tmp_path: Path) -> None:
    for number in range(3):
        spares.keep(written(tmp_path / f"j{number}.out"))
    assert len(spares) == 2
    assert not any((tmp_path / f"j{number}.out").exists() for number in range(3))


def test_what_an_earlier_runner_kept_is_used_again(
    spares: Spares, places: Places, tmp_path: Path
) -> None:
    spares.keep(written(tmp_path / "j1.out"))
    spares.make()
    later = Spares(tmp_path / "spare", 0o600, 2, places)
    later.make()
    assert len(later) == 3
    for name in ("j2", "j3", "j4"):
        later.put_at(tmp_path / name)
        assert (tmp_path / name).read_bytes() == b""
    assert len(later) == 0


def test_a_file_made_in_advance_is_ours_alone(spares: Spares, tmp_path: Path) -> None:
    spares.make()
    spares.put_at(tmp_path / "j1.out")
    assert (tmp_path / "j1.out").stat().st_mode & 0o7777 == 0o600
    spares.keep(tmp_path / "j1.out")
    assert len(spares) == 1


def test_a_directory_is_empty_and_ours_alone_whether_made_in_advance_or_not(
    places: Places, tmp_path: Path
) -> None:
    earlier = SpareDirectories(places, "work")
    for _ in range(3):
        earlier.make()
    spares = SpareDirectories(places, "work")
    spares.make()
    assert len(spares) == 4
    for job in range(6):
        path = tmp_path / f"j{job}"
        assert spares.put_at(str(path))
        assert path.stat().st_mode & 0o7777 == 0o700
        assert list(path.iterdir()) == []
    assert len(spares) == 0


def test_a_directory_that_is_in_use_is_not_replaced(places: Places, tmp_path: Path) -> None:
    """The input files of a job are fetched before it is started."""
    spares = SpareDirectories(places, "work")
    spares.make()
    (tmp_path / "j1").mkdir()
    written(tmp_path / "j1" / "input")
    assert not spares.put_at(str(tmp_path / "j1"))
    assert (tmp_path / "j1" / "input").read_bytes() == b"old"
    assert spares.put_at(str(tmp_path / "j2"))


def test_a_file_is_not_open_for_writing_while_it_is_looked_at(
    places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process started in that moment inherits the descriptor, and no busy file can be run."""
    script = written(tmp_path / "j1", b"#!/bin/sh\nexit 7\n")
    script.chmod(0o700)
    codes: list[int] = []

    def run_and_look(file: int) -> os.stat_result:
        monkeypatch.undo()
        codes.append(subprocess.run([script], check=False).returncode)
        return os.fstat(file)

    spares = Spares(tmp_path / "spare", 0o700, 2, places)
    monkeypatch.setattr("services.runner.spares.os.fstat", run_and_look)
    spares.keep(script)
    assert codes == [7]
