"""Mirrors every completed job into a CSV file, from the beginning and from then on.

    python mirror_completions.py nats://127.0.0.1:4222 subscriber.creds completions.csv

Needs nothing of Jobledger but a read-only login (docs/subscribing.md) and a NATS client
(`pip install nats-py[nkeys]`). It may be stopped at any time and goes on after the last line of
the file: each line holds the fact's sequence on the ledger.
"""

import asyncio
import base64
import csv
import json
import re
import sys
from pathlib import Path
from typing import Any

from nats.aio.client import Client
from nats.aio.msg import Msg

import nats

FILTER = "facts.job.>"
COLUMNS = ["sequence", "at", "event", "job", "code", "description"]
HEARTBEAT = 5  # seconds between signs of life of the consumer
SILENCE = 3 * HEARTBEAT  # then it is gone (a restarted server forgets it) and is made anew


async def mirror(url: str, creds: Path, target: Path) -> None:
    """Write lines until cancelled."""
    name = login_name(creds)
    # The login may receive below the inbox of its own name, and nowhere else.
    client = await nats.connect(
        url, user_credentials=str(creds), inbox_prefix=f"_INBOX.{name}", max_reconnect_attempts=-1
    )
    try:
        while True:
            try:
                await follow(client, name, target)
            except (TimeoutError, nats.errors.Error):
                await asyncio.sleep(1)  # the server is being restarted
    finally:
        await client.close()


async def follow(client: Client, name: str, target: Path) -> None:
    """Write what comes after the file's last line; TimeoutError when nothing is heard any more."""
    last = last_sequence(target)
    inbox = client.new_inbox()
    subscription = await client.subscribe(inbox)
    try:
        await make_consumer(client, name, inbox, after=last)
        with target.open("a", newline="") as file:
            writer = csv.writer(file)
            if file.tell() == 0:
                writer.writerow(COLUMNS)
            while True:
                message = await subscription.next_msg(timeout=SILENCE)
                if message.headers and "Status" in message.headers:
                    continue  # a sign of life
                row = completion(message)
                if row is not None:
                    writer.writerow(row)
                    file.flush()
    finally:
        if client.is_connected:
            await subscription.unsubscribe()


async def make_consumer(client: Client, name: str, inbox: str, *, after: int) -> None:
    """Have the stream push its facts to `inbox`: old ones first, then new ones, in order."""
    config = {
        "name": name,
        "deliver_subject": inbox,
        "ack_policy": "none",
        "deliver_policy": "by_start_sequence",
        "opt_start_seq": after + 1,
        "filter_subject": FILTER,
        "mem_storage": True,
        "idle_heartbeat": HEARTBEAT * 1_000_000_000,
        "inactive_threshold": 60 * 1_000_000_000,
    }
    await client.request(f"$JS.API.CONSUMER.DELETE.LEDGER.{name}")
    body = json.dumps({"stream_name": "LEDGER", "config": config}).encode()
    reply = await client.request(f"$JS.API.CONSUMER.CREATE.LEDGER.{name}.{FILTER}", body)
    error = json.loads(reply.data).get("error")
    if error:
        raise nats.errors.Error(error["description"])


def completion(message: Msg) -> list[Any] | None:
    """The line of a completed job; None for any other fact."""
    fact = json.loads(message.data)
    if fact["kind"] != "JobCompleted":
        return None
    sequence = message.metadata.sequence.stream
    return [sequence, *(fact[name] for name in COLUMNS[1:])]


def last_sequence(target: Path) -> int:
    """How far the file goes; 0 if there is none. A line that was not finished is cut off."""
    if not target.exists():
        return 0
    content = target.read_bytes()
    target.write_bytes(content[: content.rfind(b"\n") + 1])
    with target.open(newline="") as file:
        return max((int(row["sequence"]) for row in csv.DictReader(file)), default=0)


def login_name(creds: Path) -> str:
    """The name in the login's token."""
    found = re.search(r"^ey[\w.-]+$", creds.read_text(), re.MULTILINE)
    if found is None:
        raise SystemExit(f"{creds} holds no login.")
    part = found[0].split(".")[1]
    return str(json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))["name"])


if __name__ == "__main__":
    address, login, file = sys.argv[1:]
    asyncio.run(mirror(address, Path(login), Path(file)))
