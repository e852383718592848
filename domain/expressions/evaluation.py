"""Computes the value of an expression over JSON data.

Responsible for operators, filters and the limit on work. Must not know the text it came from,
and never touches a Python attribute of the data.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from domain.expressions import functions
from domain.expressions.functions import Resolver
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
)
from domain.expressions.values import (
    MAX_TEXT,
    ExpressionError,
    contains,
    is_container,
    is_list,
    item,
    joined,
    less,
    less_or_equal,
    loosely_equal,
    member,
    tidy,
    to_number,
    to_text,
    truthy,
)

MAX_STEPS = 50_000
"""Work of one evaluation: nodes visited, elements looked at, and each 64 characters handled."""

NO_RESOLVERS: Mapping[str, Resolver] = {}


@dataclass(slots=True)
class Work:
    """How much may still be done; may be shared by several evaluations."""

    left: int

    def spend(self, steps: int) -> None:
        """Raises ExpressionError when nothing is left."""
        self.left -= steps
        if self.left < 0:
            raise ExpressionError("Expression takes too much work")


def evaluate(
    expression: Expression,
    context: Mapping[str, Any],
    *,
    resolvers: Mapping[str, Resolver] = NO_RESOLVERS,
    work: Work | None = None,
) -> Any:
    """The expression's value over `context` (JSON data); None for what is missing.

    `resolvers` answer the functions `server` and `event`; `work` is MAX_STEPS unless given.
    Raises ExpressionError when the work or a text grows too large, or a function is misused.
    """
    evaluation = _Evaluation(context, resolvers, work or Work(MAX_STEPS))
    return evaluation.value(expression.root, None)


_OPERATORS: Mapping[str, Callable[[Any, Any], Any]] = {
    "==": loosely_equal,
    "!=": lambda left, right: not loosely_equal(left, right),
    "<": less,
    "<=": less_or_equal,
    ">": lambda left, right: less(right, left),
    ">=": lambda left, right: less_or_equal(right, left),
    "in": lambda left, right: contains(right, left),
    "+": lambda left, right: _add(left, right),
    "-": lambda left, right: tidy(to_number(left) - to_number(right)),
    "*": lambda left, right: tidy(to_number(left) * to_number(right)),
    "/": lambda left, right: _divide(to_number(left), to_number(right)),
    "//": lambda left, right: functions.floor(_divide(to_number(left), to_number(right))),
    "%": lambda left, right: _remainder(to_number(left), to_number(right)),
    "^": lambda left, right: _power(to_number(left), to_number(right)),
}


class _Evaluation:
    """One evaluation: the context, and the work that may still be done."""

    def __init__(
        self, context: Mapping[str, Any], resolvers: Mapping[str, Resolver], work: Work
    ) -> None:
        self.context = context
        self.resolvers = resolvers
        self.spend = work.spend

    def value(self, node: Node, element: Any) -> Any:
        """The value of a node; `element` is what `.name` refers to inside a filter."""
        self.spend(1)
        match node:
            case Literal(value):
                return value
            case Name(name):
                return self.context.get(name)
            case Relative(name):
                return member(element, name)
            case Member(subject, name):
                return member(self.value(subject, element), name)
            case Item(subject, key):
                return item(self.value(subject, element), self.value(key, element))
            case Filter(subject, test):
                return self.filtered(self.value(subject, element), test)
            case Unary(operator, operand):
                return _unary(operator, self.value(operand, element))
            case Binary():
                return self.binary(node, element)
            case Conditional():
                return self.conditional(node, element)
            case ListOf(elements):
                return [self.value(each, element) for each in elements]
            case ObjectOf(members):
                return {name: self.value(each, element) for name, each in members}
            case Call(function, arguments):
                return self.call(function, [self.value(each, element) for each in arguments])

    def filtered(self, subject: Any, test: Node) -> list[Any]:
        if subject is None:
            return []
        elements = subject if is_list(subject) else [subject]
        return [each for each in elements if truthy(self.value(test, each))]

    def binary(self, node: Binary, element: Any) -> Any:
        left = self.value(node.left, element)
        if node.operator == "&&":
            return self.value(node.right, element) if truthy(left) else left
        if node.operator == "||":
            return left if truthy(left) else self.value(node.right, element)
        right = self.value(node.right, element)
        self.spend(_work(left) + _work(right))
        result = _OPERATORS[node.operator](left, right)
        self.spend(_work(result))
        return result

    def conditional(self, node: Conditional, element: Any) -> Any:
        test = self.value(node.test, element)
        if not truthy(test):
            return self.value(node.otherwise, element)
        return test if node.then is None else self.value(node.then, element)

    def call(self, function: str, arguments: list[Any]) -> Any:
        self.spend(sum(map(_work, arguments)))
        result = functions.call(function, arguments, self.resolvers)
        self.spend(_work(result))
        return result


def _work(value: Any) -> int:
    """Steps that looking through a value costs."""
    if isinstance(value, str):
        return min(len(value), MAX_TEXT) // 64
    return len(value) if is_list(value) else 0


def _unary(operator: str, value: Any) -> Any:
    match operator:
        case "!":
            return not truthy(value)
        case "-":
            return -to_number(value)
        case _:
            return to_number(value)


def _add(left: Any, right: Any) -> Any:
    """Numbers are added; as soon as one side is text, array or object, both are joined as text."""
    if any(isinstance(side, str) or is_container(side) for side in (left, right)):
        return joined(to_text(left), to_text(right))
    return tidy(to_number(left) + to_number(right))


def _divide(left: int | float, right: int | float) -> int | float:
    if right != 0:
        return tidy(float(left) / float(right))
    return math.nan if left == 0 or math.isnan(left) else math.copysign(math.inf, left)


def _remainder(left: int | float, right: int | float) -> int | float:
    """As in JavaScript the sign is that of the left side."""
    if right == 0 or math.isinf(left):
        return math.nan
    return tidy(math.fmod(left, right))


def _power(left: int | float, right: int | float) -> int | float:
    try:
        result = float(left) ** float(right)
    except (OverflowError, ZeroDivisionError):
        return math.inf
    return math.nan if isinstance(result, complex) else tidy(result)
