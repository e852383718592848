"""Reads the text of an expression into its tree.

Responsible for tokens, operator precedence (JavaScript's) and the limits on length and depth.
Must not know how values are computed.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NoReturn

from domain.errors import BadRequest
from domain.expressions import functions
from domain.expressions.tree import (
    Binary,
    Call,
    Conditional,
    Expression,
    Filter,
    Item,
    ListOf,
    Literal,
    Member,
    Name,
    Node,
    ObjectOf,
    Relative,
    Unary,
    children,
)
from domain.expressions.values import tidy, to_text

MAX_SOURCE = 8 * 1024
"""Characters of the longest expression."""

MAX_NESTING = 50
"""Brackets inside brackets: the reader recurses, up to seven calls for each."""

MAX_HEIGHT = 150
"""Levels of the tree: the evaluator recurses, up to three calls for each."""

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<number>\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?)
      | (?P<name>[^\W\d][\w$]*|\$[\w$]*)
      | (?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
      | (?P<symbol>==|!=|<=|>=|&&|\|\||//|[-+*/%^<>!?:.,()\[\]{}])
    )""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "v": "\v", "0": "\0"}
_WORDS: Mapping[str, bool | None] = {"true": True, "false": False, "null": None, "undefined": None}

_PRECEDENCE = {
    "?": 1,
    "||": 2,
    "&&": 3,
    "==": 4,
    "!=": 4,
    "<": 5,
    "<=": 5,
    ">": 5,
    ">=": 5,
    "in": 5,
    "+": 6,
    "-": 6,
    "*": 7,
    "/": 7,
    "//": 7,
    "%": 7,
    "^": 8,
}
_UNARY_PRECEDENCE = 9


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    at: int


@lru_cache(maxsize=256)
def parse(text: str) -> Expression:
    """Read an expression. Raises BadRequest naming the character at fault, or the limit."""
    if len(text) > MAX_SOURCE:
        raise BadRequest(f"Expression is longer than {MAX_SOURCE} characters")
    reader = _Reader(_tokens(text))
    root = reader.whole()
    _check_height(root)
    indirect = reader.params_uses != reader.params_members
    params = None if indirect else frozenset(reader.params)
    return Expression(text, root, frozenset(reader.names), params)


def _check_height(root: Node) -> None:
    """Long chains such as `a + b + c` lean left: their height is not the reader's own depth."""
    level: list[Node] = [root]
    for _ in range(MAX_HEIGHT):
        level = [child for node in level for child in children(node)]
        if not level:
            return
    raise BadRequest(f"Expression has more than {MAX_HEIGHT} operations in a row")


def _tokens(text: str) -> list[_Token]:
    tokens, position, end = [], 0, len(text.rstrip())
    while position < end:
        found = _TOKEN.match(text, position)
        if found is None:
            rest = text[position:].lstrip()
            _refuse(f"unexpected {rest[:1]!r}", len(text) - len(rest))
        kind = found.lastgroup or ""
        tokens.append(_Token(kind, found[kind], found.start(kind)))
        position = found.end()
    return [*tokens, _Token("end", "", end)]


def _refuse(problem: str, at: int) -> NoReturn:
    raise BadRequest(f"Expression error at character {at + 1}: {problem}")


def _unescape(quoted: str) -> str:
    def plain(found: re.Match[str]) -> str:
        return chr(int(found[1], 16)) if found[1] else _ESCAPED.get(found[2], found[2])

    text = _ESCAPE.sub(plain, quoted[1:-1])
    halves = any("\ud800" <= character <= "\udfff" for character in text)
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if halves else text


class _Reader:
    """A precedence-climbing parser over the tokens of one expression."""

    def __init__(self, tokens: list[_Token]) -> None:
        self.tokens = tokens
        self.position = 0
        self.depth = 0
        self.relative_uses = 0
        self.names: set[str] = set()
        self.params: set[str] = set()
        self.params_uses = 0
        self.params_members = 0

    def whole(self) -> Node:
        node = self.expression(0)
        if self.token.kind != "end":
            _refuse(f"unexpected {self.token.text!r}", self.token.at)
        if self.relative_uses:
            _refuse("'.name' is only possible inside a filter", 0)
        return node

    @property
    def token(self) -> _Token:
        return self.tokens[self.position]

    def take(self) -> _Token:
        token = self.token
        if token.kind != "end":
            self.position += 1
        return token

    def accept(self, symbol: str) -> bool:
        if self.token.kind == "symbol" and self.token.text == symbol:
            self.position += 1
            return True
        return False

    def expect(self, symbol: str) -> None:
        if not self.accept(symbol):
            found = repr(self.token.text) if self.token.text else "the end"
            _refuse(f"expected {symbol!r}, found {found}", self.token.at)

    def expression(self, floor: int) -> Node:
        """Read a value and all operators after it that bind tighter than `floor`."""
        self.depth += 1
        if self.depth > MAX_NESTING:
            _refuse(f"nested deeper than {MAX_NESTING} levels", self.token.at)
        left = self.unary()
        while (precedence := self.operator_precedence()) > floor:
            operator = self.take().text
            if operator == "?":
                left = self.conditional(left)
            else:
                left = Binary(operator, left, self.expression(precedence))
        self.depth -= 1
        return left

    def operator_precedence(self) -> int:
        token = self.token
        if token.kind == "symbol" or (token.kind == "name" and token.text == "in"):
            return _PRECEDENCE.get(token.text, 0)
        return 0

    def conditional(self, test: Node) -> Node:
        then = None
        if not self.accept(":"):
            then = self.expression(0)
            self.expect(":")
        return Conditional(test, then, self.expression(0))

    def unary(self) -> Node:
        for operator in ("!", "-", "+"):
            if self.accept(operator):
                return Unary(operator, self.expression(_UNARY_PRECEDENCE))
        return self.steps(self.primary())

    def steps(self, node: Node) -> Node:
        """Read what follows a value: `.name`, `[key]`, `[filter]`."""
        while True:
            if self.accept("."):
                node = self.member(node)
            elif self.accept("["):
                node = self.bracket(node)
            else:
                return node

    def member(self, subject: Node) -> Node:
        name = self.member_name()
        if subject == Name("params"):
            self.params_members += 1
            self.params.add(name)
        return Member(subject, name)

    def member_name(self) -> str:
        token = self.take()
        if token.kind == "name":
            return token.text
        if token.kind == "text":
            return _unescape(token.text)
        _refuse("expected a name after '.'", token.at)

    def bracket(self, subject: Node) -> Node:
        outer, self.relative_uses = self.relative_uses, 0
        inner = self.expression(0)
        self.expect("]")
        is_filter, self.relative_uses = self.relative_uses > 0, outer
        if is_filter:
            return Filter(subject, inner)
        if subject == Name("params") and isinstance(inner, Literal):
            self.params_members += 1
            self.params.add(to_text(inner.value))
        return Item(subject, inner)

    def primary(self) -> Node:
        token = self.take()
        match token.kind:
            case "number":
                return Literal(tidy(float(token.text)))
            case "text":
                return Literal(_unescape(token.text))
            case "name":
                return self.named(token)
            case "symbol":
                return self.bracketed(token)
            case _:
                _refuse("unexpected end", token.at)

    def named(self, token: _Token) -> Node:
        if token.text in _WORDS:
            return Literal(_WORDS[token.text])
        if token.text == "in":
            _refuse("unexpected 'in'", token.at)
        if self.accept("("):
            return self.call(token)
        self.names.add(token.text)
        self.params_uses += token.text == "params"
        return Name(token.text)

    def bracketed(self, token: _Token) -> Node:
        match token.text:
            case "(":
                node = self.expression(0)
                self.expect(")")
                return node
            case "[":
                return ListOf(self.list_until("]"))
            case "{":
                return self.object_literal()
            case ".":
                self.relative_uses += 1
                return Relative(self.member_name())
            case _:
                _refuse(f"unexpected {token.text!r}", token.at)

    def list_until(self, closing: str) -> tuple[Node, ...]:
        nodes: list[Node] = []
        while not self.accept(closing):
            if nodes:
                self.expect(",")
            nodes.append(self.expression(0))
        return tuple(nodes)

    def object_literal(self) -> Node:
        members: list[tuple[str, Node]] = []
        while not self.accept("}"):
            if members:
                self.expect(",")
            name = self.member_name()
            self.expect(":")
            members.append((name, self.expression(0)))
        return ObjectOf(tuple(members))

    def call(self, token: _Token) -> Node:
        name = token.text
        if name not in functions.PLAIN and name not in functions.RESOLVING:
            _refuse(f"unknown function {name!r}", token.at)
        arguments = self.list_until(")")
        least, most = functions.ARITY.get(name, (1, 1))
        if not least <= len(arguments) <= most:
            wanted = str(least) if least == most else f"{least} to {most}"
            _refuse(f"{name}() takes {wanted} arguments, not {len(arguments)}", token.at)
        return Call(name, arguments)
