"""What the runner tells about a job's processes: connections, rows, timelines."""

import os
import socket

from services.runner.procfs import Process
from services.runner.sockets import Connection, connections
from services.runner.usage import MINUTES, SECONDS, Look, Usage


def test_the_kernel_tells_a_processes_connections_and_their_bytes() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
        server.accept()[0] as accepted,
    ):
        client.sendall(b"x" * 1000)
        while len(accepted.recv(2000, socket.MSG_PEEK)) < 1000:
            pass
        found = {one.inode: one for one in connections([os.getpid()])[os.getpid()]}
        listening = found[os.fstat(server.fileno()).st_ino]
        receiving = found[os.fstat(accepted.fileno()).st_ino]
        assert listening.state == "LISTEN"
        assert receiving.state == "ESTABLISHED"
        assert receiving.bytes == 1000
        assert receiving.local == f"127.0.0.1:{server.getsockname()[1]}"


def test_a_process_without_sockets_has_no_connections() -> None:
    assert connections([2**22 + 1]) == {}


def look(second: float, *, sent: int = 0) -> Look:
    process = Process(7, 1, 7, "R", "worker", second / 2, 1000, 0)
    connection = Connection(99, 7, "ESTABLISHED", "127.0.0.1:1", "127.0.0.1:2", sent)
    return Look(1e9 + second, second, 1e9 - 100, [process], {7: 0}, {7: [connection]})


def test_rows_and_connections_show_what_moved_since_the_last_look() -> None:
    usage = Usage()
    usage.look(look(1, sent=100))
    usage.look(look(2, sent=350))
    assert usage.procs()["7"] == {
        "pid": 7, "parentPid": 1, "command": "worker", "state": "R", "memRss": 1000,
        "cpu": 50.0, "cpuTime": 1.0, "disk": 0, "net": 250, "conns": 1,
        "started": 1e9 - 100, "age": 102,
    }  # fmt: skip
    assert [(row["bytes"], row["delta"]) for row in usage.conns()] == [(350, 250)]
    assert usage.report()["net"] == {"total": 350, "count": 2}


def test_timelines_keep_the_last_samples_only() -> None:
    usage = Usage()
    usage.look(look(0))
    assert usage.timelines() == {}
    for second in range(1, SECONDS + 120):
        usage.look(look(second))
    timelines = usage.timelines()
    assert len(timelines["second"]) == SECONDS
    assert timelines["second"][-1]["epoch"] == 1e9 + SECONDS + 119
    assert timelines["second"][-1]["procs"]["7"]["command"] == "worker"
    assert len(timelines["minute"]) == (SECONDS + 119) // 60
    assert MINUTES == 1440
