"""The TCP connections of processes, with their bytes, as the Linux kernel tells (execution.md 15).

One question to the kernel (sock_diag(7), over netlink) gives all sockets of this network
namespace; a process's own are those whose inodes its descriptors name. Where the kernel does not
answer there are none.
"""

import os
import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_SOCK_DIAG = 4  # the netlink family
_BY_FAMILY = 20
_DUMP = 0x301  # request, root, match
_DONE, _ERROR = 3, 2
_TCP = 6
_TCP_INFO = 2  # the attribute that holds struct tcp_info
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
# Where struct inet_diag_msg ends, and where bytes_acked and bytes_received are in tcp_info.
_BODY = 72
_BYTES = 120
_STATES = {
    1: "ESTABLISHED",
    2: "SYN_SENT",
    3: "SYN_RECV",
    4: "FIN_WAIT1",
    5: "FIN_WAIT2",
    6: "TIME_WAIT",
    7: "CLOSE",
    8: "CLOSE_WAIT",
    9: "LAST_ACK",
    10: "LISTEN",
    11: "CLOSING",
}
_ANSWER_WITHIN = 1.0
# A process with more descriptors is not looked through: it would hold up all others.
MOST_DESCRIPTORS = 4096


@dataclass(frozen=True, slots=True)
class Connection:
    """One socket of a process; `bytes` is what it sent (and the peer took) and received."""

    inode: int
    pid: int
    state: str
    local: str
    remote: str
    bytes: int


def connections(pids: Iterable[int]) -> dict[int, list[Connection]]:
    """The TCP sockets of these processes, by pid; those without any are left out."""
    owners = {inode: pid for pid in pids for inode in _inodes(pid)}
    if not owners:
        return {}
    found: dict[int, list[Connection]] = {}
    for family in (socket.AF_INET, socket.AF_INET6):
        for message in _sockets(family):
            (inode,) = struct.unpack_from("=I", message, 68)
            if inode in owners:
                seen = _connection(family, message, inode, owners[inode])
                found.setdefault(seen.pid, []).append(seen)
    return found


def _inodes(pid: int) -> Iterator[int]:
    """The sockets among a process's descriptors."""
    directory = f"/proc/{pid}/fd"
    try:
        names = os.listdir(directory)
    except OSError:
        return
    for name in names if len(names) <= MOST_DESCRIPTORS else ():
        try:
            target = os.readlink(f"{directory}/{name}")
        except OSError:
            continue
        if target.startswith("socket:["):
            yield int(target[8:-1])


def _sockets(family: int) -> Iterator[bytes]:
    """Every TCP socket of an address family, as struct inet_diag_msg with attributes."""
    request = struct.pack("=BBBBI", family, _TCP, 1 << (_TCP_INFO - 1), 0, 0xFFFFFFFF) + bytes(48)
    head = _HEADER.pack(_HEADER.size + len(request), _BY_FAMILY, _DUMP, 1, 0)
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _SOCK_DIAG) as kernel:
            kernel.settimeout(_ANSWER_WITHIN)
            kernel.send(head + request)
            while True:
                for kind, message in _messages(kernel.recv(1 << 16)):
                    if kind in (_DONE, _ERROR):
                        return
                    yield message
    except OSError:
        return


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind, _, _, _ = _HEADER.unpack_from(data, offset)
        yield kind, data[offset + _HEADER.size : offset + length]
        offset += max(length + 3 & ~3, _HEADER.size)


def _connection(family: int, message: bytes, inode: int, pid: int) -> Connection:
    near, far = struct.unpack_from(">HH", message, 4)
    size = 4 if family == socket.AF_INET else 16
    local = socket.inet_ntop(family, message[8 : 8 + size])
    remote = socket.inet_ntop(family, message[24 : 24 + size])
    return Connection(
        inode=inode,
        pid=pid,
        state=_STATES.get(message[1], "UNKNOWN"),
        local=_address(local, near),
        remote=_address(remote, far),
        bytes=_transferred(message),
    )


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _transferred(message: bytes) -> int:
    offset = _BODY
    while offset + _ATTRIBUTE.size <= len(message):
        length, kind = _ATTRIBUTE.unpack_from(message, offset)
        if length < _ATTRIBUTE.size:
            return 0
        if kind == _TCP_INFO and length >= _ATTRIBUTE.size + _BYTES + 16:
            acked, received = struct.unpack_from("=QQ", message, offset + _ATTRIBUTE.size + _BYTES)
            return int(acked) + int(received)
        offset += length + 3 & ~3
    return 0
