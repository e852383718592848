"""Requests that no honest client sends, by what is wrong with them.

`${KEY}` in their bytes stands for an API key that may do all.
"""

import json

from tests.services.gateway_kit import EVENT


def post(path: str, body: bytes, *headers: bytes, length: int | None = None) -> bytes:
    """The bytes of a POST, after which the connection is to be closed."""
    size = len(body) if length is None else length
    head = [
        f"POST {path} HTTP/1.1".encode(),
        b"Host: x",
        b"Connection: close",
        b"Content-Type: application/json",
        b"Content-Length: %d" % size,
        *headers,
    ]
    return b"\r\n".join(head) + b"\r\n\r\n" + body


def get(path: bytes, *headers: bytes) -> bytes:
    head = [b"GET " + path + b" HTTP/1.1", b"Host: x", b"Connection: close", *headers]
    return b"\r\n".join(head) + b"\r\n\r\n"


EVENTS = "/api/app/get_events/v1"
DEEP = b"[" * 100_000 + b"]" * 100_000
DEEP_OBJECT = b'{"a":' * 50_000 + b"1" + b"}" * 50_000

WRONG_TYPES = {
    "id": [],
    "title": {},
    "enabled": "x",
    "category": 1,
    "targets": {"a": 1},
    "plugin": [],
    "algo": {},
    "triggers": "x",
    "limits": 5,
    "actions": {},
    "params": [],
}

# What is sent, with ${KEY} for a key that may do all.
HOSTILE: dict[str, bytes] = {
    "no http at all": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 200,
    "nothing but noise": bytes(range(256)) * 20,
    "an unknown method": b"BREW /api/app/ping/v1 HTTP/1.1\r\nHost: x\r\n\r\n",
    "a method that is not offered": get(b"/api/app/ping/v1").replace(b"GET", b"DELETE"),
    "trace": get(b"/api/app/ping/v1").replace(b"GET", b"TRACE"),
    "connect": b"CONNECT example.org:443 HTTP/1.1\r\nHost: x\r\n\r\n",
    "a whole url as the path": get(b"http://elsewhere.test/api/app/ping/v1"),
    "a path without a slash": get(b"api/app/ping"),
    "an asterisk": get(b"*").replace(b"GET", b"OPTIONS"),
    "an old http version": b"GET /api/app/ping/v1 HTTP/0.9\r\n\r\n",
    "a future http version": b"GET /api/app/ping/v1 HTTP/9.9\r\nHost: x\r\n\r\n",
    "bytes that are no utf-8 in the path": get(b"/api/app/\xff\xfe/v1"),
    "escapes that are no utf-8 in the path": get(b"/api/app/get_event/v1/%ff%fe"),
    "escapes that are no utf-8 in the query": get(
        b"/api/app/get_event/v1?id=%ff", b"X-API-Key: ${KEY}"
    ),
    "a broken escape": get(b"/api/app/get_event/v1?id=%zz&%", b"X-API-Key: ${KEY}"),
    "a nul in the path": get(b"/api/app/get_event/v1/%00"),
    "a nul in the query": get(b"/api/app/get_event/v1?id=a%00b", b"X-API-Key: ${KEY}"),
    "dots that climb": get(b"/api/app/../../../../etc/passwd"),
    "escaped dots that climb": get(b"/files/%2e%2e/%2e%2e/%2e%2e/etc/passwd"),
    "dots in a file's path": get(b"/api/app/file/v1?path=files/../../../etc/passwd"),
    "backslashes": get(b"/files/..%5c..%5cserver.secret"),
    "line breaks in a parameter": get(
        b"/api/app/get_event/v1?id=a%0d%0aSet-Cookie:%20x=y", b"X-API-Key: ${KEY}"
    ),
    "a line break in a header": get(b"/api/app/ping/v1", b"X-A: b\r\n\tc: d"),
    "control characters in a header": get(b"/api/app/ping/v1", b"X-A: \x01\x02"),
    "control characters in a preflight": get(
        b"/api/app/ping/v1", b"Origin: a\x7fb", b"Access-Control-Request-Headers: \x80\xff"
    ).replace(b"GET", b"OPTIONS"),
    "two lengths": post(EVENTS, b"{}", b"Content-Length: 5"),
    "a length and chunks": post(EVENTS, b"0\r\n\r\n", b"Transfer-Encoding: chunked"),
    "a negative length": post(EVENTS, b"{}", length=-5),
    "a length that is no number": post(EVENTS, b"{}").replace(b"Length: 2", b"Length: two"),
    "a huge length": post(EVENTS, b"{}", b"X-API-Key: ${KEY}", length=10**18).replace(
        b"\r\n\r\n{}", b"\r\n\r\n" + b"x" * 4096
    ),
    "a chunk of a terrible size": post(
        EVENTS, b"FFFFFFFFFFFFFFFFF\r\nx\r\n", b"Transfer-Encoding: chunked"
    ).replace(b"Content-Length: 22\r\n", b""),
    "an unknown transfer encoding": post(EVENTS, b"", b"Transfer-Encoding: rot13"),
    "a thousand headers": get(b"/api/app/ping/v1", *[b"X-%d: y" % n for n in range(1000)]),
    "a header of a megabyte": get(b"/api/app/ping/v1", b"X-A: " + b"y" * 1_000_000),
    "a header name of a megabyte": get(b"/api/app/ping/v1", b"y" * 1_000_000 + b": x"),
    "an url of a megabyte": get(b"/api/app/ping/v1?" + b"y" * 1_000_000),
    "a cookie that is none": get(EVENTS.encode(), b'Cookie: session_id="\\\xff;;;=;session_id'),
    "a thousand cookies": get(
        EVENTS.encode(), b"Cookie: " + b";".join(b"session_id=%d" % n for n in range(1000))
    ),
    "a key of bytes": get(EVENTS.encode(), b"X-API-Key: \xff\xfe\x80"),
    "a session of bytes": get(EVENTS.encode(), b"X-Session-ID: \xff\xfe\x80"),
    "an idempotency key of bytes": post(
        "/api/app/create_tag/v1",
        b'{"title":"t"}',
        b"X-API-Key: ${KEY}",
        b"Idempotency-Key: \xff\xfe",
    ),
    "a position beyond everything": get(
        EVENTS.encode(), b"X-API-Key: ${KEY}", b"X-Ledger-Min-Seq: 99999999999999999999999"
    ),
    "a position of other digits": get(
        EVENTS.encode(), b"X-API-Key: ${KEY}", b"X-Ledger-Min-Seq: \xb2"
    ),
    "arrays without end": post(EVENTS, DEEP, b"X-API-Key: ${KEY}"),
    "objects without end": post(EVENTS, DEEP_OBJECT, b"X-API-Key: ${KEY}"),
    "objects without end in the query": get(
        b"/api/app/update_event/v1?id=x&params=" + b"%5B" * 15_000, b"X-API-Key: ${KEY}"
    ),
    "half a json": post(EVENTS, b'{"a": ', b"X-API-Key: ${KEY}"),
    "json with a lone surrogate": post(
        "/api/app/create_tag/v1", b'{"title": "\\ud800"}', b"X-API-Key: ${KEY}"
    ),
    "json that is no utf-8": post(
        "/api/app/create_tag/v1", b'{"title": "\xff"}', b"X-API-Key: ${KEY}"
    ),
    "json with not a number": post(
        EVENTS, b'{"limit": NaN, "offset": Infinity}', b"X-API-Key: ${KEY}"
    ),
    "numbers beyond everything": post(
        EVENTS, b'{"limit": 1' + b"0" * 400 + b"}", b"X-API-Key: ${KEY}"
    ),
    "exponents beyond everything": post(EVENTS, b'{"limit": 1e999}', b"X-API-Key: ${KEY}"),
    "a number too large for a database": post(
        "/api/app/search_jobs/v1", b'{"offset": 9223372036854775808}', b"X-API-Key: ${KEY}"
    ),
    "a nul in json": post(
        "/api/app/create_tag/v1", b'{"title": "a\\u0000b"}', b"X-API-Key: ${KEY}"
    ),
    "a prototype": post(
        "/api/app/create_tag/v1",
        b'{"title": "t", "__proto__": {"admin": true}}',
        b"X-API-Key: ${KEY}",
    ),
    "the wrong types everywhere": post(
        "/api/app/create_event/v1", json.dumps(WRONG_TYPES).encode(), b"X-API-Key: ${KEY}"
    ),
    "a list as the whole body": post("/api/app/create_tag/v1", b"[1, 2, 3]", b"X-API-Key: ${KEY}"),
    "text as the whole body": post("/api/app/create_tag/v1", b'"text"', b"X-API-Key: ${KEY}"),
    "a multipart body without a boundary": post(
        "/api/app/run_event/v1", b"--x\r\n\r\n", b"X-API-Key: ${KEY}"
    ).replace(b"application/json", b"multipart/form-data"),
    "a multipart body that breaks off": post(
        "/api/app/run_event/v1",
        b"--x\r\nContent-Disposition: form-data; name=a\r\n\r\nzzz",
        b"X-API-Key: ${KEY}",
    ).replace(b"application/json", b"multipart/form-data; boundary=x"),
    "a multipart head without end": post(
        "/api/app/run_event/v1", b"--x\r\nX: " + b"y" * 500_000, b"X-API-Key: ${KEY}"
    ).replace(b"application/json", b"multipart/form-data; boundary=x"),
    "files from a stranger": post(
        "/api/app/magic/v1/none",
        b"--x\r\nContent-Disposition: form-data; name=f; filename=g\r\n\r\nzzz\r\n--x--\r\n",
    ).replace(b"application/json", b"multipart/form-data; boundary=x"),
    "ten thousand form fields": post(
        "/api/app/create_tag/v1",
        b"&".join(b"a%d=1" % n for n in range(20_000)),
        b"X-API-Key: ${KEY}",
    ).replace(b"application/json", b"application/x-www-form-urlencoded"),
    "sql in an id": post(
        "/api/app/get_job/v1", b'{"id": "x\' OR 1=1; DROP TABLE jobs; --"}', b"X-API-Key: ${KEY}"
    ),
    "sql in a search": post(
        "/api/app/search_jobs/v1",
        b'{"query": "event:x\' OR \'1\'=\'1 tags:a\\"b;-- date:2020..2021", "limit": 5}',
        b"X-API-Key: ${KEY}",
    ),
    "sql in an order": post(
        "/api/app/search_jobs/v1",
        b'{"sort_by": "completed; DROP TABLE jobs", "limit": 5}',
        b"X-API-Key: ${KEY}",
    ),
    "wildcards in a search": post(
        "/api/app/search_activity/v1",
        b'{"query": "%_*?[]()\\\\ \\" NEAR( AND OR ^", "limit": 5}',
        b"X-API-Key: ${KEY}",
    ),
    "wildcards of subjects in ids": post(
        "/api/app/create_event/v1", json.dumps(EVENT | {"id": "*.>"}).encode(), b"X-API-Key: ${KEY}"
    ),
    "dots of subjects in ids": post(
        "/api/app/create_event/v1", json.dumps(EVENT | {"id": "a.b"}).encode(), b"X-API-Key: ${KEY}"
    ),
    "blanks and breaks in ids": post(
        "/api/app/create_event/v1",
        json.dumps(EVENT | {"id": "a b\r\nPUB x 0"}).encode(),
        b"X-API-Key: ${KEY}",
    ),
    "paths in ids": post(
        "/api/app/get_job_log/v1", b'{"id": "../../server.secret"}', b"X-API-Key: ${KEY}"
    ),
    "ids that go on for ever": post(
        "/api/app/get_event/v1", json.dumps({"id": "a" * 1_000_000}).encode(), b"X-API-Key: ${KEY}"
    ),
    "very many ids": post(
        "/api/app/get_jobs/v1", json.dumps({"ids": ["j"] * 200_000}).encode(), b"X-API-Key: ${KEY}"
    ),
    "very many different ids": post(
        "/api/app/get_jobs/v1",
        json.dumps({"ids": [f"j{n}" for n in range(100_000)]}).encode(),
        b"X-API-Key: ${KEY}",
    ),
    "a pattern that takes for ever": post(
        "/api/app/create_group/v1",
        b'{"title": "g", "hostname_match": "(a+)+$(((((b*)*)*)*)*)"}',
        b"X-API-Key: ${KEY}",
    ),
    "a search of nothing but operators": post(
        "/api/app/search_jobs/v1",
        json.dumps({"query": "-" * 5000 + " a|b|c:!:!!| " * 2000}).encode(),
        b"X-API-Key: ${KEY}",
    ),
    "a path of brackets": post(
        "/api/app/get_active_jobs/v1",
        b'{"params.a.b.c.d": {"x": []}, "": 1, ".": 2}',
        b"X-API-Key: ${KEY}",
    ),
    "a token of bytes": get(b"/api/app/download_job_log/v1?id=j1&t=%c3%a9"),
    "a stream's token that is a list": get(b"/api/app/stream_job/v1?id=j1&token=a&token=b"),
    "a login that is a list": post(
        "/api/user/login", b'{"username": ["admin"], "password": {"$ne": ""}}'
    ),
    "a websocket": get(b"/api/app/ping/v1", b"Upgrade: websocket", b"Sec-WebSocket-Key: x").replace(
        b"Connection: close", b"Connection: Upgrade, close"
    ),
    "another protocol": get(b"/api/app/ping/v1", b"Upgrade: h2c", b"HTTP2-Settings: AAMA").replace(
        b"Connection: close", b"Connection: Upgrade, HTTP2-Settings, close"
    ),
    "no host": b"GET /api/app/ping/v1 HTTP/1.1\r\nConnection: close\r\n\r\n",
    "a range of everything": get(b"/schema/rapidoc-min.js", b"Range: bytes=0-,1-,2-,3-,4-"),
    "an encoding nobody knows": get(
        EVENTS.encode(), b"X-API-Key: ${KEY}", b"Accept-Encoding: \xff;q=x, ,,;"
    ),
}
