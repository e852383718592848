"""Describes in AsyncAPI what subscribers can follow: subjects, headers, payloads and examples.

Everything is taken from the models of the facts and from the subjects they are written to, so
the document cannot say what is not so. Knows nothing of NATS connections.
"""

import types
from collections.abc import Mapping
from importlib.metadata import version
from inspect import cleandoc
from typing import Any, Literal, Union, get_args, get_origin

import msgspec

from domain.facts import KINDS, Fact, FactBase, Json, Part, decode, encode, from_plain
from domain.subjects import subject_of

# What a subscriber may follow (nats/permissions/subscriber.json), and what it finds there.
CHANNELS: dict[str, str] = {
    "ledger.ledger": "The founding of the ledger: its first fact.",
    "ledger.event.{event}": "The definitions of one event (a job definition).",
    "ledger.catalog.{type}.{id}": "Categories, tags, groups, plugins, roles and servers.",
    "ledger.state": "Scheduling turned on or off.",
    "ledger.job.{event}.{job}": "One job: what was wanted, what was decided, and how it ended.",
    "ledger.queue.{event}": "The flushing of an event's queue.",
    "ledger.report.{server}": "What the runner of one server reports: starts and ends.",
    "ledger.schedule": "Up to when due times were looked at.",
    "ledger.term": "Which scheduler leads.",
    "ledger.tombstone": "Jobs that were erased.",
    "ledger.checkpoint": "Seals over all facts before.",
}
_PARAMETERS = {
    "event": "The id of an event.",
    "job": "The id of a job.",
    "server": "The id of a server.",
    "type": "category, tag, group, plugin, role or server.",
    "id": "The id of the record.",
}
_HEADERS: dict[str, str] = {
    "Fact-Kind": "The kind of the fact, as in the payload.",
    "Nats-Sequence": "The fact's position in the ledger: follow on from it after a break.",
    "Nats-Subject": "The subject on the ledger (facts... instead of ledger...).",
    "Nats-Stream": "LEDGER.",
    "Nats-Time-Stamp": "When it was stored.",
    "Nats-Last-Sequence": "The position of the fact before on the same subject; 0 for the first.",
    "Nats-Msg-Id": "The id of the command or decision that the fact records.",
}
_EXAMPLES: dict[str, Any] = {
    "at": 1790000000.125,
    "actor": {"type": "scheduler", "id": "term-40"},
    "event": "nightly",
    "job": "jmuoajnl50000001",
    "server": "west1",
    "boot": "b6f1c2d3e4f5a6b7",
    "machine_boot": "0f9e8d7c-6b5a-4938-8271-605f4e3d2c1b",
    "hostname": "west1.example.com",
    "ledger": "6f1c2d3e4f5a6b7c8d9e0f1a",
    "definition": {"id": "nightly", "title": "Nightly backup", "enabled": True, "revision": 1},
    "made_of": {"event": 21, "plugin": 3},
    "source": "scheduler",
    "username": "admin",
    "now": 1790000000.0,
    "until": 1790000060.0,
    "started": 1790000000.25,
    "ended": 1790000007.5,
    "code": 0,
    "description": "Success",
    "order": 57,
    "pid": 4711,
    "reason": "An example.",
    "evaluated": 1790000000.0,
    "after": 1789990000.0,
    "upto": 1790000000.0,
    "count": 3,
    "instance": "4711-0a1b2c3d",
    "stage": "end",
    "index": 0,
    "action": {"enabled": True, "condition": "error", "type": "email"},
    "record": {"id": "important", "title": "Important", "revision": 1},
    "id": "important",
    "type": "tag",
    "digest": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "first": 1,
    "last": 500,
    "children": [{"job": "jmuoajnl50000002", "server": "west1"}],
    "jobs": ["jmuoajnl50000002"],
    "tags": ["_success"],
    "changes": {"label": "An example"},
    "elapsed_ms": 12,
}


def document() -> Json:
    """The AsyncAPI document."""
    shown = {kind: model for kind, model in KINDS.items() if channel_of(example(kind)) is not None}
    _, schemas = msgspec.json.schema_components(
        shown.values(), ref_template="#/components/schemas/{name}"
    )
    for schema in schemas.values():
        schema["description"] = cleandoc(schema["description"])
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Jobledger facts",
            "version": version("jobledger"),
            "description": "Every command and decision as an immutable fact, live and in order. "
            "Only what was stored is shown here. docs/subscribing.md tells how to follow.",
        },
        "defaultContentType": "application/json",
        "channels": {_name(address): _channel(address, shown) for address in CHANNELS},
        "operations": {
            f"follow_{_name(address)}": {
                "action": "receive",
                "channel": {"$ref": f"#/channels/{_name(address)}"},
                "summary": what,
            }
            for address, what in CHANNELS.items()
        },
        "components": {
            "messages": {kind: _message(kind, model) for kind, model in shown.items()},
            "schemas": schemas,
        },
    }


def channel_of(fact: Fact) -> str | None:
    """The address under which subscribers see a fact; None if they do not."""
    parts = subject_of(fact).split(".")
    for address in CHANNELS:
        pattern = address.split(".")
        fits = len(pattern) == len(parts) and all(
            part.startswith("{") or part == found
            for part, found in zip(pattern[1:], parts[1:], strict=True)
        )
        if fits:
            return address
    return None


def example(kind: str) -> Fact:
    """A fact of this kind with its required fields filled in."""
    fact: Any = from_plain(KINDS[kind], _required(KINDS[kind]))
    return decode(encode(fact))


def _required(model: type[Part]) -> Json:
    fields = msgspec.structs.fields(model)
    return {field.name: _value(field.name, field.type) for field in fields if field.required}


def _channel(address: str, shown: Mapping[str, type[FactBase]]) -> Json:
    names = [part[1:-1] for part in address.split(".") if part.startswith("{")]
    kinds = [kind for kind in shown if channel_of(example(kind)) == address]
    channel: Json = {
        "address": address,
        "title": CHANNELS[address],
        "messages": {kind: {"$ref": f"#/components/messages/{kind}"} for kind in kinds},
    }
    if names:
        channel["parameters"] = {name: {"description": _PARAMETERS[name]} for name in names}
    return channel


def _message(kind: str, model: type[FactBase]) -> Json:
    summary, _, rest = (model.__doc__ or "").partition("\n")
    fact = example(kind)
    message: Json = {
        "name": kind,
        "summary": summary,
        "headers": {
            "type": "object",
            "properties": {
                name: {"type": "string", "description": what} for name, what in _HEADERS.items()
            },
        },
        "payload": {"$ref": f"#/components/schemas/{model.__name__}"},
        "examples": [{"payload": msgspec.json.decode(encode(fact))}],
    }
    if rest.strip():
        message["description"] = " ".join(rest.split())
    return message


def _name(address: str) -> str:
    """`ledger.job.{event}.{job}` as `job`."""
    return address.split(".")[1]


def _value(name: str, annotation: Any) -> Any:
    """Something of this type; the one from the examples if that fits."""
    if name in _EXAMPLES:
        try:
            msgspec.convert(_EXAMPLES[name], annotation)
        except msgspec.ValidationError:
            pass  # the same name means something else in this fact
        else:
            return _EXAMPLES[name]
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return arguments[0]
    if origin in (Union, types.UnionType):
        return _value(name, arguments[0])
    if isinstance(annotation, type) and issubclass(annotation, Part):
        return _required(annotation)
    plain: dict[Any, Any] = {str: "text", int: 1, float: 1.0, bool: True}
    return plain.get(annotation, [] if origin is list else {})
