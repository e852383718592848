"""What a runner tells about its machine: address, system, load and memory (data.md 10)."""

import os
import platform
import socket

import psutil

from domain.facts import Json


def address() -> str:
    """The address that this machine would use towards others; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"


def described() -> Json:
    """What does not change while the runner runs (data.md 10)."""
    os_info = {
        "platform": platform.system().lower(),
        "distro": _distribution(),
        "release": platform.release(),
        "arch": platform.machine(),
    }
    return {"os": os_info, **load()}


def _distribution() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        return ""


def load() -> Json:
    """Load and memory now; bytes, percent, and the 1-minute load average."""
    memory = psutil.virtual_memory()
    return {
        "cpu": {
            "cores": psutil.cpu_count() or 1,
            "avgLoad": round(os.getloadavg()[0], 2),
            "currentLoad": psutil.cpu_percent(None),
        },
        "memory": {
            "total": memory.total,
            "available": memory.available,
            "used": memory.used,
            "free": memory.free,
            "active": memory.total - memory.available,
        },
    }
