"""Durations and sizes as people read them, for messages of limits and notices. Pure."""

_UNITS = (("day", 86400), ("hour", 3600), ("minute", 60), ("second", 1))
_SIZES = ("bytes", "KB", "MB", "GB", "TB")


def spoken_duration(seconds: float) -> str:
    """A duration by its two largest units: `1 minute, 30 seconds`; a short one `0.25 seconds`."""
    if 0 < seconds < 1:
        return f"{seconds:.2g} seconds"
    left = round(seconds)
    parts = []
    for name, size in _UNITS:
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count} {name}{'' if count == 1 else 's'}")
        elif parts:
            break
    return ", ".join(parts[:2]) or "0 seconds"


def spoken_size(size: float) -> str:
    """A number of bytes in its largest unit of 1,024: `512 bytes`, `1.5 MB`."""
    unit = 0
    while size >= 1024 and unit < len(_SIZES) - 1:
        size, unit = size / 1024, unit + 1
    name = "byte" if (size, unit) == (1, 0) else _SIZES[unit]
    return f"{size:.2f}".rstrip("0").rstrip(".") + f" {name}"
