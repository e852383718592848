"""The tree of an expression: one frozen class per kind of node.

Responsible for the shape alone. Must not know how a text is read or a value computed.
"""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Literal:
    value: str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Name:
    """A top-level name of the context."""

    name: str


@dataclass(frozen=True, slots=True)
class Relative:
    """`.name` inside a filter: a member of the element being looked at."""

    name: str


@dataclass(frozen=True, slots=True)
class Member:
    subject: "Node"
    name: str


@dataclass(frozen=True, slots=True)
class Item:
    subject: "Node"
    key: "Node"


@dataclass(frozen=True, slots=True)
class Filter:
    subject: "Node"
    test: "Node"


@dataclass(frozen=True, slots=True)
class Unary:
    operator: str
    operand: "Node"


@dataclass(frozen=True, slots=True)
class Binary:
    operator: str
    left: "Node"
    right: "Node"


@dataclass(frozen=True, slots=True)
class Conditional:
    """`test ? then : otherwise`; without `then` the test's own value is used."""

    test: "Node"
    then: "Node | None"
    otherwise: "Node"


@dataclass(frozen=True, slots=True)
class ListOf:
    elements: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class ObjectOf:
    members: tuple[tuple[str, "Node"], ...]


@dataclass(frozen=True, slots=True)
class Call:
    function: str
    arguments: tuple["Node", ...]


Node = (
    Literal
    | Name
    | Relative
    | Member
    | Item
    | Filter
    | Unary
    | Binary
    | Conditional
    | ListOf
    | ObjectOf
    | Call
)


@dataclass(frozen=True, slots=True)
class Expression:
    """A parsed expression, ready to be evaluated any number of times."""

    source: str
    root: Node
    names: frozenset[str]
    """Top-level names of the context that the expression mentions."""
    params: frozenset[str] | None
    """Names it reads as `params.NAME`; None when it uses `params` in any other way."""


def children(node: Node) -> Iterable[Node]:
    """The nodes directly below a node."""
    match node:
        case Literal() | Name() | Relative():
            return ()
        case Member(subject):
            return (subject,)
        case Item(subject, key):
            return (subject, key)
        case Filter(subject, test):
            return (subject, test)
        case Unary(_, operand):
            return (operand,)
        case Binary(_, left, right):
            return (left, right)
        case Conditional(test, then, otherwise):
            return (test, otherwise) if then is None else (test, then, otherwise)
        case ListOf(elements):
            return elements
        case ObjectOf(members):
            return tuple(value for _, value in members)
        case Call(_, arguments):
            return arguments
