"""What came from nats-server is handed on whole and in order, however it was cut on its way."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from services.ledger.client import Intake, header_block

DIRECT, OTHER = 3, 4
Handed = tuple[bytes, bytes, bytes, bytes | None]

payloads = st.binary(max_size=40) | st.sampled_from([b"\r\n", b"MSG a 3 1\r\nx", b""])
replies = st.sampled_from([b"", b"$JS.ACK.x.1"])
header_blocks = st.none() | st.sampled_from(
    [b"NATS/1.0 100 Idle\r\n\r\n", b"NATS/1.0\r\na: b\r\n\r\n"]
)
messages = st.tuples(st.sampled_from([DIRECT, OTHER]), replies, payloads, header_blocks)
lines = st.sampled_from([b"PING\r\n", b"PONG\r\n", b"+OK\r\n", b'INFO {"a": 1}\r\n'])


def frame(sid: int, reply: bytes, payload: bytes, headers: bytes | None) -> bytes:
    """A message as nats-server sends it."""
    head = b"sub %d %s" % (sid, reply + b" " if reply else b"")
    if headers is None:
        return b"MSG %s%d\r\n%s\r\n" % (head, len(payload), payload)
    size = len(headers) + len(payload)
    return b"HMSG %s%d %d\r\n%s%s\r\n" % (head, len(headers), size, headers, payload)


def taken_in(pieces: list[bytes]) -> tuple[list[Handed], bytes]:
    """What the handler got, and the bytes that all others got."""
    handed: list[Handed] = []
    others = bytearray()
    intake = Intake({DIRECT: lambda *message: handed.append(message)}, others.extend)
    for piece in pieces:
        intake.feed(piece)
    return handed, bytes(others)


@given(sent=st.lists(messages | lines, max_size=8), cuts=st.lists(st.integers(0, 400)))
def test_messages_reach_their_handler_however_they_are_cut(
    sent: list[tuple[int, bytes, bytes, bytes | None] | bytes], cuts: list[int]
) -> None:
    """Those of a direct subscription go to its handler, everything else goes on unchanged."""
    frames = [one if isinstance(one, bytes) else frame(*one) for one in sent]
    stream = b"".join(frames)
    places = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    pieces = [stream[a:b] for a, b in itertools.pairwise(places)]

    handed, others = taken_in(pieces)

    direct = [one for one in sent if not isinstance(one, bytes) and one[0] == DIRECT]
    assert handed == [(b"sub", reply, payload, block) for _, reply, payload, block in direct]
    assert others == b"".join(
        bytes_ for one, bytes_ in zip(sent, frames, strict=True) if one not in direct
    )


def test_what_is_not_the_protocol_ends_the_connection() -> None:
    """Nothing behind it is believed: the client is told of an error, and connects anew."""
    good = frame(DIRECT, b"", b"1", None)
    handed, others = taken_in([good, b"MSG sub x 1\r\n1\r\n", good])
    assert len(handed) == 1
    assert others.startswith(b"-ERR ")


def test_a_value_cannot_add_a_header() -> None:
    """A line break within a value becomes a space."""
    assert header_block({"a": "1", "b": "2\r\nc: 3"}) == b"NATS/1.0\r\na: 1\r\nb: 2  c: 3\r\n\r\n"
