"""Which files of ended jobs may be used again, and what the next job gets of them."""

import os
from pathlib import Path
from stat import S_IFDIR, S_IFREG

import pytest

from services.runner.job_files import Folder, JobFiles
from services.runner.spares import MOST_BYTES, emptied


@pytest.fixture
def files(tmp_path: Path) -> JobFiles:
    return JobFiles(tmp_path)


def taken(files: JobFiles, job: str) -> Folder:
    """A new folder, for a job that starts now."""
    folder = files.folder(files.take(), job)
    files.make(folder)
    return folder


def folder_of(files: JobFiles, job: str) -> Folder:
    """A folder in which a job has run."""
    folder = taken(files, job)
    for path in (folder.out, folder.err, folder.script):
        Path(path).write_bytes(b"old")
    folder.make_work(None)
    return folder


def after(files: JobFiles, *folders: Folder) -> Folder:
    """What the next job gets once these are cleaned up: what is empty, and nothing else."""
    for folder in folders:
        files.leave(folder)
    files.clean()
    assert files.is_clean
    assert not any(os.path.exists(folder.out) for folder in folders)
    following = taken(files, "next")
    modes = {"out": S_IFREG | 0o600, "script": S_IFREG | 0o700, "work": S_IFDIR | 0o700}
    for path in Path(following.out).parent.iterdir():
        assert path.stat().st_mode == modes.pop(path.name)
        assert not (os.listdir(path) if path.is_dir() else path.read_bytes())
    assert not modes
    return following


def inode(path: str) -> int:
    return os.stat(path).st_ino


def test_a_folder_is_used_again_under_another_name_and_empty(files: JobFiles) -> None:
    folder = folder_of(files, "j1")
    kept = inode(folder.out), inode(folder.script)
    following = after(files, folder)
    assert following.name != folder.name
    assert kept == (inode(following.out), inode(following.script))


def test_a_working_directory_is_new_and_ours_alone(files: JobFiles) -> None:
    """A process that outlived its job may stand in the old one."""
    folder = folder_of(files, "j1")
    Path(folder.work, "below").mkdir()
    Path(folder.work, "below", "file").touch()
    there = os.open(folder.work, os.O_RDONLY)
    following = after(files, folder)
    following.make_work(None)
    assert Path(following.work).stat().st_mode & 0o7777 == 0o700
    assert os.listdir(following.work) == []
    assert os.fstat(there).st_nlink == 0
    os.close(there)


def test_a_directory_of_a_job_that_never_started_is_new_as_well(files: JobFiles) -> None:
    """Who could put something into a folder could stand there, too."""
    folder = taken(files, "j1")
    there = os.open(Path(folder.out).parent / "work", os.O_RDONLY)
    after(files, folder)
    assert os.fstat(there).st_nlink == 0
    os.close(there)


def test_a_folder_of_the_release_before_has_no_directory_in_advance(files: JobFiles) -> None:
    folder = taken(files, "j1")
    (Path(folder.out).parent / "work").rmdir()
    folder.make_work(None)
    assert os.listdir(folder.work) == []


def test_a_working_directory_that_is_in_use_is_not_replaced(files: JobFiles) -> None:
    """The input files of a job are fetched before it is started."""
    folder = folder_of(files, "j1")
    Path(folder.work, "input").write_bytes(b"old")
    folder.make_work(None)
    assert Path(folder.work, "input").read_bytes() == b"old"


def test_what_a_job_put_beside_its_files_is_deleted(files: JobFiles, tmp_path: Path) -> None:
    folder = folder_of(files, "j1")
    beside = Path(folder.out).parent
    beside.joinpath("out.1").touch()
    beside.joinpath("more").mkdir()
    beside.joinpath("more", "file").touch()
    precious = tmp_path / "precious"
    precious.write_bytes(b"mine")
    beside.joinpath("link").symlink_to(precious)
    kept = inode(folder.out)
    assert inode(after(files, folder).out) == kept
    assert precious.read_bytes() == b"mine"


@pytest.mark.parametrize("mode", ["rb", "ab"])
@pytest.mark.parametrize("name", ["out", "script"])
def test_files_that_somebody_has_open_are_not_used_again(
    files: JobFiles, name: str, mode: str
) -> None:
    """A process that outlived its job may still write to it."""
    folder = folder_of(files, "j1")
    with open(getattr(folder, name), mode) as file:
        following = after(files, folder)
        assert inode(getattr(following, name)) != os.fstat(file.fileno()).st_ino


def test_a_folder_without_one_of_its_files_is_not_used_again(files: JobFiles) -> None:
    folder = folder_of(files, "j1")
    os.unlink(folder.script)
    after(files, folder)


def written(path: Path) -> Path:
    path.touch(0o600)
    path.write_bytes(b"old")
    return path


def test_a_file_with_another_name_is_not_ours_alone(tmp_path: Path) -> None:
    file = written(tmp_path / "out")
    assert emptied(str(file), 0o600)
    written(file)
    os.link(file, tmp_path / "mine")
    assert not emptied(str(file), 0o600)
    assert (tmp_path / "mine").read_bytes() == b"old"


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    precious = written(tmp_path / "precious")
    (tmp_path / "out").symlink_to(precious)
    assert not emptied(str(tmp_path / "out"), 0o600)
    assert precious.read_bytes() == b"old"


@pytest.mark.parametrize("mode", [0o644, 0o700])
def test_a_file_that_others_may_use_is_not_ours_alone(tmp_path: Path, mode: int) -> None:
    file = written(tmp_path / "out")
    file.chmod(mode)
    assert not emptied(str(file), 0o600)


def test_a_large_file_is_not_emptied(tmp_path: Path) -> None:
    file = written(tmp_path / "out")
    os.truncate(file, MOST_BYTES + 1)
    assert not emptied(str(file), 0o600)


def test_no_more_folders_are_kept_than_wanted(
    files: JobFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.runner.job_files.SPARE_JOBS", 2)
    after(files, *(folder_of(files, f"j{number}") for number in range(4)))
    assert len(list(tmp_path.glob("jobs/*/*"))) == 2


def test_names_are_never_used_again(tmp_path: Path) -> None:
    """Not by a later runner either: a process may remember the paths of its job."""
    names = set()
    for _ in range(3):
        files = JobFiles(tmp_path)
        files.take_over(set())
        files.clean()
        names |= {files.take() for _ in range(2)}
    assert len(names) == 6


def test_what_an_earlier_runner_left_is_used_again(files: JobFiles, tmp_path: Path) -> None:
    """Its spare folders, and those of jobs that it did not clean up; not those of jobs that run."""
    running, over = folder_of(files, "j1"), folder_of(files, "j2")
    spare = taken(files, "")
    later = JobFiles(tmp_path)
    later.take_over({running.name})
    kept = {inode(over.out), inode(spare.out)}
    later.clean()
    assert Path(running.out).read_bytes() == b"old"
    assert {inode(taken(later, "").out) for _ in range(2)} == kept


def test_a_folder_that_is_cleaned_up_twice_harms_no_other_job(
    files: JobFiles, tmp_path: Path
) -> None:
    """A runner that dies before it noted that a job is reported will report it again."""
    folder = folder_of(files, "j1")
    following = after(files, folder)
    Path(following.out).write_bytes(b"new")
    later = JobFiles(tmp_path)
    later.take_over({following.name})
    later.leave(folder)
    later.clean()
    assert Path(following.out).read_bytes() == b"new"


def test_what_waits_has_a_folder_of_an_ended_job_when_it_starts(files: JobFiles) -> None:
    """In the order in which they start, and before any that come later."""
    over = folder_of(files, "over")
    kept = inode(over.out)
    waiting = [files.folder(files.take(), job) for job in ("first", "second", "aborted")]
    assert not any(os.path.exists(Path(folder.out).parent) for folder in waiting)
    files.leave(over)
    files.clean()
    later = files.folder(files.take(), "later")
    files.leave(waiting.pop())
    for folder in (*waiting, later):
        files.make(folder)
        files.make(folder)
        assert not Path(folder.out).read_bytes()
        folder.make_work(None)
    assert [inode(folder.out) == kept for folder in (*waiting, later)] == [True, False, False]
    assert after(files, later).name not in {folder.name for folder in waiting}
