"""A job's files: input files before it starts, output files after it ended (execution.md 14).

Names are data: no directories, control characters or leading dots. Nothing outside the working
directory is read, whatever a job names and wherever its links point. Nothing is deleted either:
what a job wants removed goes with its directory, and is there for a runner that has to store it
again, as the one before died before it reported the job.
"""

import fnmatch
import glob
import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHUNK = 512 * 1024
MAX_NAME = 200
MAX_FILES = 1000
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_MAGIC = re.compile(r"[*?\[]")
_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# A pipe or a device must not make the open wait.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class OutputFile:
    """A file to store: where it lies, and under which name."""

    path: Path
    filename: str


def safe_name(name: str) -> str:
    """The last part of a path as a harmless file name."""
    base = _CONTROL.sub("", name.replace("\\", "/").rsplit("/", 1)[-1]).lstrip(".").strip()
    return base.encode()[:MAX_NAME].decode("utf-8", "ignore") or "file"


def distinct_names(names: Iterable[str]) -> list[str]:
    """The names, repeated ones with a number before their suffix."""
    taken: set[str] = set()
    result: list[str] = []
    for name in names:
        chosen, number = name, 1
        while chosen in taken:
            number += 1
            stem, dot, suffix = name.rpartition(".")
            chosen = f"{stem}-{number}.{suffix}" if dot and stem else f"{name}-{number}"
        taken.add(chosen)
        result.append(chosen)
    return result


def output_files(work: Path, named: Any) -> tuple[list[OutputFile], list[str]]:
    """The files that a job's `files` entries mean, and a remark per entry that means none.

    An entry is a path or glob, `[path, filename, delete]`, or `{path, filename, delete}`.
    """
    found: list[OutputFile] = []
    remarks: list[str] = []
    root = work.resolve()
    for entry in named if isinstance(named, list) else []:
        path, filename = _parts(entry)
        if path is None:
            remarks.append("WARNING: An output file without a path was skipped.")
            continue
        for match in _matches(root, path, exact=filename is not None):
            problem = _problem(root, match)
            if problem:
                remarks.append(f"WARNING: Output file {path[:200]} was skipped: {problem}.")
            else:
                name = safe_name(filename or match.name)
                found.append(OutputFile(match.resolve(), name))
    unique = list({file.path: file for file in found}.values())
    if len(unique) > MAX_FILES:
        remarks.append(f"WARNING: Only the first {MAX_FILES} output files were stored.")
    return unique[:MAX_FILES], remarks


def read_file(root: Path, path: Path) -> Iterator[bytes]:
    """The content, piece by piece; never through a link, never from a device.

    Each step from the working directory `root` is opened by itself: processes that the job left
    behind may have put a link in its place since the path was looked at. Raises OSError.
    """
    with open(_opened(root, path), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(f"It is no plain file any more: {path.name}")
        while chunk := file.read(CHUNK):
            yield chunk


def _opened(root: Path, path: Path) -> int:
    *steps, name = path.relative_to(root).parts
    folder = os.open(root, _FOLDER)
    try:
        for step in steps:
            below = os.open(step, _FOLDER, dir_fd=folder)
            os.close(folder)
            folder = below
        return os.open(name, _FILE, dir_fd=folder)
    finally:
        os.close(folder)


def _parts(entry: Any) -> tuple[str | None, str | None]:
    match entry:
        case str():
            values: list[Any] = [entry]
        case list():
            values = entry
        case dict():
            values = [entry.get("path"), entry.get("filename")]
        case _:
            values = []
    path, filename = (*values, None, None)[:2]
    path = path if isinstance(path, str) and path and "\0" not in path else None
    return path, filename if isinstance(filename, str) and filename else None


def _matches(root: Path, path: str, *, exact: bool) -> list[Path]:
    """The paths that a name means; a glob that matches nothing means nothing."""
    full = os.path.join(root, path)
    if exact or not _MAGIC.search(path) or os.path.lexists(full):
        return [Path(full)]
    anchored = full if os.path.isabs(path) else os.path.join(glob.escape(str(root)), path)
    if not fnmatch.fnmatch(os.path.normpath(anchored), glob.escape(str(root)) + "*"):
        return [Path(full)]
    return [Path(p) for p in sorted(glob.glob(anchored)) if os.path.isfile(p)]


def _problem(root: Path, path: Path) -> str | None:
    """Why a path may not be stored."""
    real = path.resolve()
    if real != root and root not in real.parents:
        return "it is outside the working directory"
    if path.is_symlink():
        return "it is a link"
    if not path.exists():
        return "it does not exist"
    if not path.is_file():
        return "it is no plain file"
    return None
