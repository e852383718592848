"""The outside world of actions: a web hook's receiver and an SMTP server, on 127.0.0.1."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any

PATIENCE = 20.0


@dataclass
class Received:
    """One HTTP request as it came."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self.body)
        return content


@dataclass
class HookReceiver:
    """Answers every request with the next of `answers`: a status, or None to hang up.

    While `held` is not set, requests wait for their answer.
    """

    url: str = ""
    answers: list[int | None] = field(default_factory=list)
    received: list[Received] = field(default_factory=list)
    held: asyncio.Event = field(default_factory=asyncio.Event)
    news: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            first, *lines = head.strip().split("\r\n")
            method, target, _ = first.split(" ")
            headers = dict(line.split(": ", 1) for line in lines)
            headers = {name.lower(): value for name, value in headers.items()}
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            async with self.news:
                self.received.append(Received(method, target, headers, body))
                self.news.notify_all()
            await self.held.wait()
            status = self.answers.pop(0) if self.answers else 200
            if status is not None:
                reply = (
                    f"HTTP/1.1 {status} Said\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
                )
                writer.write(reply.encode())
                await writer.drain()
        writer.close()

    async def got(self, count: int) -> list[Received]:
        """The first requests, once there are so many."""
        async with asyncio.timeout(PATIENCE), self.news:
            await self.news.wait_for(lambda: len(self.received) >= count)
        return self.received


@contextlib.asynccontextmanager
async def hook_receiver() -> AsyncIterator[HookReceiver]:
    """A listening receiver that answers at once."""
    receiver = HookReceiver()
    receiver.held.set()
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0)
    receiver.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield receiver
    finally:
        receiver.held.set()
        server.close()


@dataclass
class MailServer:
    """Takes every email, except for recipients in `refused`."""

    port: int = 0
    mails: list[tuple[list[str], EmailMessage]] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        def say(line: str) -> None:
            writer.write(line.encode() + b"\r\n")

        say("220 here")
        recipients: list[str] = []
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while line := (await reader.readline()).decode().strip():
                match line.split(":", 1)[0].upper().split(" ")[0]:
                    case "RCPT":
                        address = line.split("<")[1].split(">")[0]
                        if address in self.refused:
                            say("550 nobody of this name")
                            continue
                        recipients.append(address)
                        say("250 ok")
                    case "DATA":
                        say("354 go on")
                        data = await reader.readuntil(b"\r\n.\r\n")
                        mail = message_from_bytes(data[:-5], policy=policy.default)
                        assert isinstance(mail, EmailMessage)
                        self.mails.append((recipients, mail))
                        recipients = []
                        say("250 taken")
                    case "QUIT":
                        say("221 bye")
                        break
                    case _:
                        say("250 ok")
        writer.close()


@contextlib.asynccontextmanager
async def mail_server() -> AsyncIterator[MailServer]:
    """A listening SMTP server without encryption."""
    mails = MailServer()
    server = await asyncio.start_server(mails.serve, "127.0.0.1", 0)
    mails.port = server.sockets[0].getsockname()[1]
    try:
        yield mails
    finally:
        server.close()
