"""The HTTP request plugin: one request, its answer is the job's result (plugins.md 9.2).

A program of its own, standard library only.
"""

import http.client
import json
import math
import os
import re
import socket
import ssl
import sys
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote, urljoin, urlsplit

sys.path.append(os.path.abspath(f"{__file__}/../../../.."))

from services.runner.plugins.protocol import read_job, say

MAX_REDIRECTS = 32
MAX_JSON = 32 * 1024 * 1024
MAX_SHOWN = 1024 * 1024
BLOCK = 64 * 1024
TEXT = re.compile(r"^(text/|application/(json|xml|javascript|x-www-form-urlencoded))|\+(json|xml)")
SUFFIXES = {"application/json": ".json", "text/html": ".html", "text/plain": ".txt"}
PLACEHOLDER = re.compile(r"\[([\w.\-]+)\]")
URL = re.compile(r"https?://\S+", re.IGNORECASE)
BEYOND_ASCII = re.compile(r"[^\x00-\x7f]+")


class Failed(Exception):
    """The job fails with code 1 and this text."""


@dataclass
class Request:
    """What to send, with placeholders filled in."""

    method: str
    url: str
    headers: dict[str, str]
    body: bytes | None
    first_byte: float
    idle: float
    connect: float
    follow: bool
    insecure: bool


@dataclass
class Answer:
    """What came back; `body` is empty where it went to a file."""

    status: int
    reason: str
    headers: dict[str, str]
    body: bytes = b""
    file: str | None = None
    perf: dict[str, float] = field(default_factory=dict)


def main() -> None:
    """Send the request and report."""
    job = read_job()
    params = job.get("params") or {}
    try:
        request = prepare(job, params)
        answer = send(request, params)
        report(request, answer, job)
        end(*judge(answer, params))
    except Failed as error:
        end(1, str(error))
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        end(error.errno or 1, f"HTTP request failed: {reason}")
    except http.client.HTTPException as error:
        end(1, f"HTTP request failed: {type(error).__name__} {error}")
    except ValueError as error:  # of a header or a host name that cannot be sent
        end(1, f"HTTP request failed: {error}")


def end(code: int, description: str) -> None:
    """The job's result."""
    say(complete=True, code=code, description=description)


def prepare(job: dict[str, Any], params: dict[str, Any]) -> Request:
    """The request that the params mean."""
    method = str(params.get("method") or "GET").upper()
    url = checked(fill(str(params.get("url") or ""), job))
    headers = {}
    for line in fill(str(params.get("headers") or ""), job).splitlines():
        name, colon, value = line.partition(":")
        if colon and name.strip():
            headers[name.strip()] = value.strip()
    body = None
    if method not in ("GET", "HEAD"):
        body = fill(str(params.get("data") or ""), job).encode()
    return Request(
        method,
        url,
        headers,
        body,
        first_byte=number(params.get("timeout"), 30),
        idle=number(params.get("idle_timeout"), 30),
        connect=number(params.get("connect_timeout"), 10),
        follow=bool(params.get("follow")),
        insecure=bool(params.get("ssl_cert_bypass")),
    )


def fill(text: str, job: dict[str, Any]) -> str:
    """`[path]` placeholders from the whole request; unknown ones stay."""

    def value(found: "re.Match[str]") -> str:
        here: Any = job
        for key in found[1].split("."):
            if not isinstance(here, dict) or key not in here:
                return found[0]
            here = here[key]
        return here if isinstance(here, str) else json.dumps(here)

    return PLACEHOLDER.sub(value, text)


def checked(url: str) -> str:
    """The URL, if it is one with a host."""
    try:
        parts = urlsplit(url)
        has_place = bool(parts.hostname) and parts.port != 0
    except ValueError:
        has_place = False
    if not has_place or not URL.fullmatch(url):
        raise Failed(f"Malformed URL: {url}")
    return url


def number(value: Any, otherwise: float) -> float:
    """Seconds; zero and nonsense mean the default."""
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        return otherwise
    return seconds if 0 < seconds < math.inf else otherwise


def send(request: Request, params: dict[str, Any]) -> Answer:
    """The answer, after redirects where they shall be followed."""
    url, method, body = request.url, request.method, request.body
    headers = dict(request.headers)
    for _ in range(MAX_REDIRECTS + 1):
        answer = exchange(request, method, url, headers, body, params)
        location = answer.headers.get("location")
        if not (request.follow and 300 <= answer.status < 400 and location):
            return answer
        before, url = url, checked(urljoin(url, location))
        if answer.status == 303 or (answer.status in (301, 302) and method == "POST"):
            method, body = "GET", None
        if urlsplit(before).netloc != urlsplit(url).netloc:
            headers = {
                k: v for k, v in headers.items() if k.lower() not in ("authorization", "cookie")
            }
    raise Failed(f"Too many redirects (more than {MAX_REDIRECTS})")


def exchange(
    request: Request,
    method: str,
    url: str,
    headers: dict[str, str],
    body: bytes | None,
    params: dict[str, Any],
) -> Answer:
    """One request and its answer."""
    parts = urlsplit(url)
    began = time.monotonic()
    connection = connect(request, parts.scheme.lower(), parts.hostname or "", parts.port)
    connected = time.monotonic()
    try:
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        assert connection.sock is not None
        connection.sock.settimeout(request.first_byte)
        path = BEYOND_ASCII.sub(lambda found: quote(found[0]), path)
        connection.request(method, path, body=body, headers=headers)
        response = connection.getresponse()
        first = time.monotonic()
        connection.sock and connection.sock.settimeout(request.idle)
        answer = Answer(
            response.status,
            response.reason,
            {name.lower(): value for name, value in response.getheaders()},
        )
        redirect = request.follow and 300 <= answer.status < 400 and "location" in answer.headers
        to_file = bool(params.get("download")) and not redirect and answer.status < 400
        receive(response, answer, url, params, to_file=to_file)
        done = time.monotonic()
    finally:
        connection.close()
    answer.perf = {
        "connect": round(connected - began, 4),
        "wait": round(first - connected, 4),
        "receive": round(done - first, 4),
        "total": round(done - began, 4),
    }
    return answer


def connect(
    request: Request, scheme: str, host: str, port: int | None
) -> http.client.HTTPConnection:
    """An open connection."""
    if scheme == "https":
        context = ssl.create_default_context()
        if request.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            host, port, timeout=request.connect, context=context
        )
    else:
        connection = http.client.HTTPConnection(host, port, timeout=request.connect)
    try:
        connection.connect()
    except socket.gaierror as error:
        raise Failed(f"HTTP request failed: Cannot resolve {host}: {error.strerror}") from error
    except TimeoutError as error:
        raise Failed(f"HTTP request failed: No connection within {request.connect:g} s") from error
    return connection


def receive(
    response: http.client.HTTPResponse,
    answer: Answer,
    url: str,
    params: dict[str, Any],
    *,
    to_file: bool,
) -> None:
    """Read the body into memory or a file, with progress where its length is known."""
    length = response.length or 0
    received, shown = 0, 0.0
    name = file_name(answer, url, params) if to_file else None
    target = open(name, "wb") if name else None  # noqa: SIM115
    blocks: list[bytes] = []
    try:
        while block := response.read(BLOCK):
            received += len(block)
            if target:
                target.write(block)
            elif received <= MAX_JSON:
                blocks.append(block)
            if length and time.monotonic() - shown > 0.25:
                shown = time.monotonic()
                say(progress=min(received / length, 1))
    finally:
        if target:
            target.close()
    if response.length:  # what is missing: nobody else complains
        raise Failed(
            f"HTTP request failed: The connection ended after {received} of {length} bytes"
        )
    answer.body, answer.file = b"".join(blocks), name


def file_name(answer: Answer, url: str, params: dict[str, Any]) -> str:
    """From content-disposition, the param or the URL; with a suffix in any case."""
    disposition = answer.headers.get("content-disposition", "")
    found = re.search(r'filename="?([^";]+)"?', disposition)
    name = found[1] if found else str(params.get("filename") or unquote(urlsplit(url).path))
    name = re.sub(r"[^\w.\- ]", "_", name.rstrip("/").rsplit("/", 1)[-1]).lstrip(".") or "download"
    if "." not in name:
        kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
        name += SUFFIXES.get(kind, ".bin")
    return name


def judge(answer: Answer, params: dict[str, Any]) -> tuple[int, str]:
    """Code and description: by status, then by what the body must not or must hold."""
    line = f"HTTP {answer.status} {answer.reason}".strip()
    if not 200 <= answer.status < 400:
        return answer.status, line
    body = answer.body.decode("utf-8", "replace")
    if params.get("error_match") and matches(str(params["error_match"]), body):
        return 1, f"Response contains error match: {params['error_match']}"
    if params.get("success_match") and not matches(str(params["success_match"]), body):
        return 1, f"Response is missing success match: {params['success_match']}"
    return 0, f"Success ({line})"


def matches(pattern: str, body: str) -> bool:
    """Whether a pattern is found; a broken one fails the job."""
    try:
        return re.search(pattern, body) is not None
    except re.error as error:
        raise Failed(f"Invalid regular expression: {pattern} ({error})") from error


def report(request: Request, answer: Answer, job: dict[str, Any]) -> None:
    """Data for the next job, timings and a readable account; secrets are hidden in it."""
    kind = answer.headers.get("content-type", "")
    data: dict[str, Any] = {
        "statusCode": answer.status,
        "statusMessage": answer.reason,
        "headers": answer.headers,
    }
    text = answer.body.decode("utf-8", "replace")
    if "json" in kind or text.lstrip().startswith("{"):
        data |= parsed(text)
    # Two messages, so that a body that is too large for one does not take the rest along.
    say(data=data)
    message: dict[str, Any] = {"perf": answer.perf}
    content = account(request, answer, text if TEXT.search(kind) else "")
    for secret in (job.get("secrets") or {}).values():
        if isinstance(secret, str) and secret:
            content = content.replace(secret, "****")
    message["markdown"] = {"title": "HTTP Request Details", "content": content}
    if answer.file:
        message["files"] = [answer.file]
    say(**message)


def parsed(text: str) -> dict[str, Any]:
    """What a body says as JSON; nothing where it is none that a message can hold."""
    try:
        value = json.loads(text)
        line = json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError):
        return {}
    return {"json": value} if len(line) < MAX_JSON - MAX_SHOWN else {}


def account(request: Request, answer: Answer, text: str) -> str:
    """The exchange as markdown."""
    parts = [f"### Request\n\n```http\n{request.method} {request.url}"]
    parts += [f"{name}: {value}" for name, value in request.headers.items()]
    parts.append("```\n")
    if request.body:
        parts.append(f"```\n{request.body[:MAX_SHOWN].decode('utf-8', 'replace')}\n```\n")
    parts.append(f"### Response\n\n```http\nHTTP {answer.status} {answer.reason}")
    parts += [f"{name}: {value}" for name, value in answer.headers.items()]
    parts.append("```\n")
    if text and len(text) < MAX_SHOWN:
        parts.append(f"```\n{text}\n```\n")
    parts.append("### Timings\n\n| Phase | Seconds |\n|---|---|")
    parts += [f"| {name} | {value} |" for name, value in answer.perf.items()]
    return "\n".join(parts)


if __name__ == "__main__":
    main()
