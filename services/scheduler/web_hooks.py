"""Sends web hooks: signed, with an idempotency key, retried (execution.md 9.4).

A hook is a record, or just the `url` of an action. Any HTTP status counts as delivered, unless
the hook says `fail_on_status`. Knows nothing of when hooks are sent.
"""

import asyncio
import contextlib
import hashlib
import hmac
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

from domain.acting import Outcome
from domain.facts import Json
from domain.macros import expand_text
from projections.definitions import Definitions
from services.ledger.secrets import web_hook_key
from services.scheduler.notices import Notice, expanded_url, payload

SIGNATURE = "Jobledger-Signature"
"""`sha256=` and the HMAC-SHA-256 in hex over the body, with the hook's key."""

TIMEOUT = 30.0
RETRIES = 3
"""For an action that names a URL instead of a record."""
MOST_RETRIES = 32
LONGEST_PAUSE = 30.0  # seconds between two tries; they begin at `PAUSE` and double
PAUSE = 0.5
REDIRECTS = 32
LONGEST_TRY = 4
"""Times the timeout, which counts from byte to byte: a receiver that trickles is left alone."""
SHOWN = 4096  # characters of the answer that are kept
DAY = 86400

if TYPE_CHECKING:
    import httpx

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Call:
    """One request, ready to be sent as often as it takes. `timeout` is in seconds."""

    hook: str
    method: str
    url: str
    headers: dict[str, str]
    body: bytes | None
    timeout: float
    retries: int
    follow: bool
    fail_on_status: bool
    unchecked_certificate: bool


class WebHooks:
    """Sends; use as `async with`. `clock` gives Unix seconds, for the limit per day."""

    def __init__(self, definitions: Definitions, secret: bytes, clock: Callable[[], float]) -> None:
        self._definitions = definitions
        self._secret = secret
        self._clock = clock
        self._clients: dict[bool, httpx.AsyncClient] = {}
        self._sent: Counter[tuple[str, int]] = Counter()

    async def close(self) -> None:
        """End all connections."""
        for client in self._clients.values():
            await client.aclose()
        self._clients.clear()

    async def send(self, notice: Notice) -> Outcome:
        """Deliver one notice; never raises for what the receiver does."""
        action = notice.run.action
        id = str(action.get("web_hook") or "")
        record = self._definitions.record("webhook", id) if id else _plain(action)
        if record is None:
            return Outcome("web_hook", f"Web Hook not found: {id}")
        if not record.get("enabled", True):
            return Outcome("web_hook", f"Web Hook is disabled: {record.get('title')}")
        if self._used_up(id, record.get("max_per_day")):
            return Outcome("web_hook", f"Web Hook was fired too often today: {record.get('title')}")
        call = self._call(id, record, notice)
        if not call.url.lower().startswith(("http://", "https://")):
            return Outcome("web_hook", f"Malformed URL: {call.url}")
        return await self._deliver(call)

    def _used_up(self, id: str, most: Any) -> bool:
        """Count a call of today; whether there were too many. Counted anew in each term."""
        today = (id, int(self._clock() // DAY))
        if not id or not isinstance(most, int) or not most:
            return False
        self._sent[today] += 1
        return self._sent[today] > most

    def _call(self, id: str, record: Json, notice: Notice) -> Call:
        context = notice.context | {"secrets": {}}
        method = str(record.get("method") or "POST").upper()
        template = str(record.get("body") or "")
        if method in ("GET", "HEAD"):
            body = None
        elif template.strip():
            body = expand_text(template, context, missing="N/A").encode()
        else:
            body = json.dumps(payload(notice), ensure_ascii=False).encode()
        url = expanded_url(str(record.get("url") or ""), context)
        headers = {"Content-Type": "application/json", "User-Agent": "Jobledger"}
        for header in record.get("headers") or []:
            value = expand_text(str(header.get("value", "")), context, missing="N/A")
            headers = {k: v for k, v in headers.items() if k.lower() != header["name"].lower()}
            headers[str(header["name"])] = " ".join(value.split())
        key = web_hook_key(self._secret, id or str(notice.run.action.get("url")))
        headers["Idempotency-Key"] = notice.key
        headers[SIGNATURE] = "sha256=" + hmac.new(key, body or b"", hashlib.sha256).hexdigest()
        return Call(
            hook=id,
            method=method,
            url=url,
            headers=headers,
            body=body,
            timeout=float(record.get("timeout") or TIMEOUT),
            retries=min(int(record.get("retries") or 0), MOST_RETRIES),
            follow=bool(record.get("follow")),
            fail_on_status=bool(record.get("fail_on_status")),
            unchecked_certificate=bool(record.get("ssl_cert_bypass")),
        )

    async def _deliver(self, call: Call) -> Outcome:
        import httpx  # not before it is needed: it is large, and many never send a web hook

        pause = PAUSE
        for attempt in range(call.retries + 1):
            try:
                response = await self._request(call)
            except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
                problem = str(error) or type(error).__name__
                outcome = Outcome("web_hook", f"Web Hook failed: {problem}")
                if isinstance(error, httpx.InvalidURL | httpx.UnsupportedProtocol):
                    return outcome
            else:
                outcome = _outcome(call, response)
                if outcome.code == 0 or response.status_code < 500:
                    return outcome
            if attempt < call.retries:
                log.info("a web hook is tried again", action="web_hook_retry", hook=call.hook)
                await asyncio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE)
        return outcome

    async def _request(self, call: Call) -> "httpx.Response":
        """One try. The answer's body is read no further than what is kept of it."""
        client = self._client(call.unchecked_certificate)
        request = client.stream(
            call.method,
            call.url,
            content=call.body,
            headers=call.headers,
            timeout=call.timeout,
            follow_redirects=call.follow,
        )
        async with asyncio.timeout(call.timeout * LONGEST_TRY), request as response:
            kept = b""
            async for part in response.aiter_bytes():
                kept += part
                if len(kept) >= SHOWN:
                    break
            response.extensions["kept"] = kept[:SHOWN]
            return response

    def _client(self, unchecked: bool) -> "httpx.AsyncClient":
        import httpx

        if unchecked not in self._clients:
            self._clients[unchecked] = httpx.AsyncClient(
                verify=not unchecked, max_redirects=REDIRECTS
            )
        return self._clients[unchecked]


def _plain(action: Json) -> Json | None:
    url = action.get("url")
    return {"url": url, "retries": RETRIES, "timeout": TIMEOUT} if url else None


def _outcome(call: Call, response: "httpx.Response") -> Outcome:
    status, phrase = response.status_code, response.reason_phrase
    failed = call.fail_on_status and status >= 400
    shown = response.extensions["kept"].decode("utf-8", "replace")
    details = f"- **Request:** {call.method} {call.url}\n- **Status:** {status} {phrase}\n"
    if shown.strip():
        details += f"\n```\n{shown}\n```\n"
    said = f"HTTP {status} {phrase}".strip()
    description = f"Web Hook failed: {said}" if failed else f"Success ({said})"
    return Outcome(
        "web_hook" if failed else 0,
        description,
        details=details,
        http_status=status,
        answer=_answer(response, shown),
    )


def _answer(response: "httpx.Response", shown: str) -> Json:
    """The receiver's answer as a job's output data."""
    answer: Json = {
        "statusCode": response.status_code,
        "statusMessage": response.reason_phrase,
        "headers": {name.lower(): value for name, value in response.headers.items()},
        "text": shown,
    }
    # Most answers are no JSON, or longer than what is kept of them.
    with contextlib.suppress(ValueError):
        answer["json"] = json.loads(shown)
    return answer
