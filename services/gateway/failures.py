"""Counting failed attempts, so that guessing is slow (api.md 8.1, design.md 10).

Knows neither passwords nor HTTP. Counts live in memory: a restart forgets them, which nobody
outside can bring about.
"""

import ipaddress
from collections import OrderedDict, deque

# Names and addresses that are remembered; whoever failed least recently is forgotten first.
_MOST_KEYS = 20_000
_NETWORK = 64  # one household or server owns a whole /64 of IPv6 addresses


class Failures:
    """How often something failed within the last `window` seconds, by name.

    A name with more than `most` failures is locked until enough of them are old.
    """

    def __init__(self, most: int, window: float) -> None:
        self.most = most
        self.window = window
        self._times: OrderedDict[str, deque[float]] = OrderedDict()

    def add(self, name: str, now: float) -> None:
        """One more failure of this name; `now` is in Unix seconds."""
        times = self._times.setdefault(name, deque(maxlen=self.most + 1))
        times.append(now)
        self._times.move_to_end(name)
        if len(self._times) > _MOST_KEYS:
            self._times.popitem(last=False)

    def locked(self, name: str, now: float) -> bool:
        """Whether the name failed more often than it may."""
        times = self._times.get(name)
        if times is None:
            return False
        while times and times[0] <= now - self.window:
            times.popleft()
        return len(times) > self.most

    def forget(self, name: str) -> None:
        """Start anew for this name, because it succeeded or got a new password."""
        self._times.pop(name, None)


def network_of(address: str | None) -> str:
    """Under which name an address is counted: itself, or the network of an IPv6 address."""
    try:
        ip = ipaddress.ip_address(address or "")
    except ValueError:
        return address or "unknown"
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is None:
        return str(ipaddress.ip_network((int(ip), _NETWORK), strict=False))
    return str(getattr(ip, "ipv4_mapped", None) or ip)
