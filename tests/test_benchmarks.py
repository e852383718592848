"""What the benchmarks would measure wrongly without anybody noticing."""

import importlib
import json
import socket
import threading
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
BODY = b'{"code":0,"rows":[1,2,3]}'
CHUNKS = b"A;note=1\r\n" + BODY[:10] + b"\r\nf\r\n" + BODY[10:] + b"\r\n0\r\n"

REPLIES = {
    "a length": HEAD + b"Content-Length: 25\r\n\r\n" + BODY,
    "chunks": HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKS + b"\r\n",
    "trailers": HEAD + b"transfer-encoding: Chunked\r\n\r\n" + CHUNKS + b"Sum: 7\r\n\r\n",
}


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    return load


@pytest.mark.parametrize("data", REPLIES.values(), ids=REPLIES.keys())
def test_a_reply_is_taken_when_its_last_byte_has_come_and_not_before(
    program: Any, data: bytes
) -> None:
    parse = program("client").parse_reply

    assert [parse(data[:end]) for end in range(len(data))] == [None] * len(data)
    assert parse(data).body == BODY
    assert parse(data).size == len(data)


def test_a_reply_without_a_length_ends_with_its_connection(program: Any) -> None:
    parse = program("client").parse_reply

    assert parse(HEAD + b"\r\n" + BODY) is None
    assert parse(HEAD + b"\r\n" + BODY, ended=True).body == BODY


def test_a_reply_without_a_body_is_whole_with_its_head(program: Any) -> None:
    assert program("client").parse_reply(b"HTTP/1.1 204 No Content\r\n\r\n").body == b""


@pytest.mark.parametrize("length", [3, 100, 10_000])
def test_replies_that_come_in_pieces_are_told_apart(program: Any, length: int) -> None:
    """Long ones before short ones, in the same memory."""
    long = b"x" * 700_000
    told = HEAD + b"Content-Length: %d\r\n\r\n" % len(long) + long
    gathering = program("client").Gathering()

    for data, body in [(told, long), *((data, BODY) for data in REPLIES.values()), (told, long)]:
        gathering.begin()
        *some, last = [data[at : at + length] for at in range(0, len(data), length)]
        assert not any(gathering.add(piece) for piece in some)
        reply = gathering.add(last)
        assert (reply.body, reply.size) == (body, len(data))
    gathering.begin()
    assert gathering.add(HEAD + b"\r\n" + BODY) is None
    assert gathering.add(b"", ended=True).body == BODY


def test_a_reply_that_says_no_is_no_reply_however_it_begins(program: Any) -> None:
    client = program("client")

    for fine in (b'{"code":0}', b' {"code": 0, "rows": []}', b'{"rows":[],"code":0}'):
        assert client.checked("ping", fine) == fine
    for bad in (b'{"code":1}', b'{"code":"api"}', b'{"code":0.5}', b'{"code":01}', b"<html>", b""):
        with pytest.raises(client.BadReply):
            client.checked("ping", bad)


def test_a_lone_client_asks_again_where_the_server_closed_its_connection(program: Any) -> None:
    """Any server may, after any reply, and need not say so."""
    client = program("client")
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            for _ in range(3):
                with listening.accept()[0] as connection:
                    assert connection.recv(1000).startswith(b"GET /api/app/ping/v1 HTTP/1.1")
                    connection.sendall(REPLIES["a length"])

        server = threading.Thread(target=serve)
        server.start()
        host, port = listening.getsockname()
        with client.Wire(SimpleNamespace(host=host, port=port, key="k")) as wire:
            assert [wire.raw("ping/v1") for _ in range(3)] == [BODY] * 3
        server.join()


@pytest.mark.parametrize("data", REPLIES.values(), ids=REPLIES.keys())
def test_a_connection_that_ends_within_a_reply_is_no_reply(program: Any, data: bytes) -> None:
    client = program("client")

    with pytest.raises(client.BadReply):
        client.parse_reply(data[:-1], ended=True)


STREAM = [
    ("start", {}),
    ("update", {"xy": 1, "id": "j1", "state": "queued"}),
    ("update", {"xy": 1, "state": "active"}),
    ("update", {"xy": 1, "id": "j1", "code": 0}),
    ("end", {}),
]


def test_a_whole_stream_has_no_flaw(program: Any) -> None:
    assert program("streams").flaw("j1", STREAM) is None


@pytest.mark.parametrize("missing", [0, 1, 3, 4])
def test_a_stream_that_lacks_an_event_has_a_flaw(program: Any, missing: int) -> None:
    assert program("streams").flaw("j1", STREAM[:missing] + STREAM[missing + 1 :])


def test_a_stream_whose_states_go_backwards_has_a_flaw(program: Any) -> None:
    assert program("streams").flaw("j1", [STREAM[i] for i in (0, 1, 2, 1, 3, 4)])


def test_a_picture_shows_each_line_of_what_was_measured(program: Any) -> None:
    cpu = dict.fromkeys("nats gateway scheduler runner keeper children all".split(), 1.5)
    rows = [
        {"what": what, "amount": amount, "cpu_ms_per_job": cpu}
        for what, amount in (("events", 10), ("events", 100), ("queued", 0))
    ]

    found = program("plots").panels(json.loads(json.dumps({"curves": rows, "machine": {}})))

    assert list(found) == ["curves"]
    events, queued = found["curves"]
    assert events.lines["gateway"] == [(10, 1.5), (100, 1.5)]
    assert queued.lines["all"] == [(0, 1.5)]


def test_jobs_without_a_limit_are_drawn_last(program: Any) -> None:
    rows = [{"limit": limit, "server": 0, "jobs_per_second": 200 - limit} for limit in (0, 32, 8)]

    (panel,) = program("plots").panels({"jobs": rows})["jobs"]

    assert panel.lines == {"Jobledger": [(8, 192), (32, 168), (0, 200)]}
