"""The limit on a job's input files: pruned at start, never a reason to abort (execution.md 7.5)."""

from domain.facts import Json
from domain.wording import spoken_size


def pruned(files: list[Json], limit: Json | None) -> tuple[list[Json], list[str]]:
    """The files that stay, in order, and one line for the meta log per pruning.

    By count (`amount`; 0 = none), then by total `size` in bytes (cut at the first file that
    exceeds it), then by extension (`accept`).
    """
    if limit is None:
        return files, []
    kept, remarks = files, []
    for prune in (_by_count, _by_size, _by_extension):
        before = len(kept)
        kept, rule = prune(kept, limit)
        if len(kept) < before:
            remarks.append(f"Input files left out by the file limit ({rule}): {before - len(kept)}")
    return kept, remarks


def _by_count(files: list[Json], limit: Json) -> tuple[list[Json], str]:
    amount = limit.get("amount")
    if not isinstance(amount, int | float):
        return files, ""
    return files[: int(amount)], f"at most {int(amount)} files"


def _by_size(files: list[Json], limit: Json) -> tuple[list[Json], str]:
    most = limit.get("size")
    if not isinstance(most, int | float) or not most:
        return files, ""
    total = 0.0
    for place, file in enumerate(files):
        size = file.get("size")
        total += size if isinstance(size, int | float) else 0
        if total > most:
            return files[:place], f"at most {spoken_size(most)}"
    return files, ""


def _by_extension(files: list[Json], limit: Json) -> tuple[list[Json], str]:
    accept = limit.get("accept")
    words = accept.split(",") if isinstance(accept, str) else []
    endings = tuple("." + w.strip().lstrip(".").lower() for w in words if w.strip().strip("."))
    if not endings:
        return files, ""
    kept = [file for file in files if str(file.get("filename", "")).lower().endswith(endings)]
    return kept, f"accepts {accept}"
