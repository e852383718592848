"""A job's input files: fetched in parts from a scheduler into the working directory.

A runner may read nothing on the ledger but its orders, so files come through the launch request
(design.md 14). Failures end the job with "Setup Error: ..." (execution.md 14).
"""

import asyncio
import os
from pathlib import Path
from typing import Any

from domain.facts import JobAssigned
from services.runner.accounts import Account
from services.runner.commands import job_account
from services.runner.errors import CannotStart
from services.runner.files import distinct_names, safe_name
from services.runner.job_files import Folder
from services.runner.launches import Launch, Launches
from services.runner.spool import write_all


async def fetch_inputs(
    launches: Launches, order: int, assigned: JobAssigned, launch: Launch, folder: Folder
) -> None:
    """Put the input files under their names into the working directory; names are made distinct.

    Raises CannotStart.
    """
    document = launch.document
    files = input_files(document.get("input"))
    account = job_account(document)
    folder.make_work(account.owner if account else None)
    work = Path(folder.work)
    names = distinct_names(safe_name(str(f.get("filename") or "file")) for f in files)
    for file, name in zip(files, names, strict=True):
        file["filename"] = name
        try:
            await _fetch(launches, order, assigned, file, work / name, account)
        except OSError as error:
            raise CannotStart(f"Setup Error: Cannot write {name}: {error.strerror}") from error


def input_files(given: Any) -> list[dict[str, Any]]:
    """The file records of a job's input."""
    files = given.get("files") if isinstance(given, dict) else None
    return [f for f in files if isinstance(f, dict)] if isinstance(files, list) else []


async def _fetch(
    launches: Launches,
    order: int,
    assigned: JobAssigned,
    file: dict[str, Any],
    path: Path,
    account: Account | None,
) -> None:
    descriptor = _create(path, account)
    try:
        async for part in launches.file_parts(order, assigned, file):
            await asyncio.to_thread(write_all, descriptor, part)
    finally:
        os.close(descriptor)


def _create(path: Path, account: Account | None) -> int:
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    if account is not None:
        os.fchown(descriptor, *account.owner)
    return descriptor
