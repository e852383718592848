"""The expression language: execution.md 4 and 5, data.md 2."""

import math
import time
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.errors import BadRequest
from domain.expressions import ExpressionError, evaluate, parse
from domain.expressions.reader import MAX_HEIGHT, MAX_NESTING, MAX_SOURCE

SERVER = {
    "hostname": "db1",
    "groups": ["main", "db"],
    "info": {"os": {"platform": "linux"}, "cpu": {"cores": 4, "avgLoad": 0.5}},
    "userData": {"rev": "12", "on": True},
    "disks": [{"mount": "/", "free": 10}, {"mount": "/var", "free": 90}],
}


def value(text: str, context: dict[str, Any] | None = None) -> Any:
    return evaluate(parse(text), SERVER if context is None else context)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1", 1),
        ("1.50", 1.5),
        (".5", 0.5),
        ("1e3", 1000),
        ("'a'", "a"),
        ('"a\\"b\\\\"', 'a"b\\'),
        ("'\\u00e9\\ud83d\\ude00'", "é😀"),
        ("true", True),
        ("null", None),
        ("undefined", None),
        ("[1, 'a', [2]]", [1, "a", [2]]),
        ("[]", []),
        ("{a: 1, 'b c': [2]}", {"a": 1, "b c": [2]}),
        ("{}", {}),
    ],
)
def test_literals(text: str, expected: Any) -> None:
    assert value(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hostname", "db1"),
        ("info.os.platform", "linux"),
        ("info['os'].platform", "linux"),
        ("info['o' + 's']['platform']", "linux"),
        ("info.'os'.platform", "linux"),
        ("groups[1]", "db"),
        ("groups['1']", "db"),
        ("groups[2]", None),
        ("groups[-1]", None),
        ("groups[0.5]", None),
        ("groups.main", None),
        ("disks.free", 10),
        ("disks[.free > 50].mount", "/var"),
        ("disks[.free > 5][.mount == '/var'].free", 90),
        ("disks[.free > info.cpu.cores][1].mount", "/var"),
        ("count(info[.cpu])", 1),
        ("count(missing[.a])", 0),
        ("missing", None),
        ("missing.a.b", None),
        ("hostname.length", None),
        ("hostname[0]", None),
        ("groups.__len__", None),
        ("info.items", None),
        ("info[groups]", None),
    ],
)
def test_paths(text: str, expected: Any) -> None:
    assert value(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1 + 2 * 3 - 4 / 2", 5),
        ("2 * (3 + 4)", 14),
        ("7 % 4", 3),
        ("-7 % 4", -3),
        ("7 // 2", 3),
        ("2 ^ 3 + 1", 9),
        ("- 3 - -2", -1),
        ("10 / 4", 2.5),
        ("10 - 2 - 3", 5),
        ("'a' + 1 + 2", "a12"),
        ("1 + 2 + 'a'", "3a"),
        ("'a' + null", "a"),
        ("'' + [1, 2]", "[1,2]"),
        ("true + 1", 2),
        ("'3' * '4'", 12),
        ("' 3 ' - 1", 2),
        ("9007199254740993 + 0", 9007199254740992),
        ("1 / 0", math.inf),
        ("-1 / 0", -math.inf),
        ("2 ^ 5000", math.inf),
        ("0 ^ -1", math.inf),
    ],
)
def test_arithmetic(text: str, expected: Any) -> None:
    assert value(text) == expected


@pytest.mark.parametrize("text", ["'a' * 1", "missing + 1", "0 / 0", "1 % 0", "(0-8) ^ 0.5", "-{}"])
def test_what_is_no_number_is_nan(text: str) -> None:
    assert math.isnan(value(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1 == '1'", True),
        ("1 == '1.0'", True),
        ("'1' == '1.0'", False),
        ("1 == true", True),
        ("0 == ''", True),
        ("0 == null", False),
        ("null == missing", True),
        ("null == false", False),
        ("groups == groups", True),
        ("[1] == [1]", False),
        ("'a' != 'b'", True),
        ("'10' < '9'", True),
        ("'10' < 9", False),
        ("missing < 1", False),
        ("missing >= 0", False),
        ("missing <= missing", False),
        ("2 >= 2 && 2 <= 2", True),
        ("'abc' > 1", False),
        ("1 < 2 == true", True),
        ("'main' in groups", True),
        ("'mai' in groups", False),
        ("'b1' in hostname", True),
        ("'os' in info", True),
        ("4 in ['4']", True),
        ("{a: 1} in [{a: 1}]", False),
        ("1 in null", False),
        ("groups in hostname", False),
    ],
)
def test_comparison(text: str, expected: bool) -> None:
    assert value(text) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1 || 0 && 0", 1),
        ("0 || ''", ""),
        ("null && missing.x", None),
        ("!0 && !'' && !null && !(0 / 0)", True),
        ("![] || !{}", False),
        ("!!'0'", True),
        ("1 ? 2 : 3", 2),
        ("0 ? 2 : 0 ? 4 : 5", 5),
        ("hostname ?: 'x'", "db1"),
        ("missing ?: 'x'", "x"),
        ("1 == 1 ? 'a' + 'b' : 'c'", "ab"),
        ("false && match('x', '(')", False),
    ],
)
def test_truth(text: str, expected: Any) -> None:
    assert value(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("min(4, '3', 5)", 3),
        ("max([1, 9, 2])", 9),
        ("floor(-1.5)", -2),
        ("ceil(1.1)", 2),
        ("round(0.5)", 1),
        ("round(-0.5)", 0),
        ("round(2.4)", 2),
        ("clamp(-5, 0, 100)", 0),
        ("bytes(512)", "512 bytes"),
        ("bytes(1536)", "1.5 KB"),
        ("bytes(1099511627776 * 5000)", "5000 TB"),
        ("bytes('x')", "0 bytes"),
        ("number(1234.5)", "1,234.5"),
        ("number(-1234)", "-1,234"),
        ("number(null)", "0"),
        ("pct(1, 3)", "33.33%"),
        ("pct(1, 3, true)", "33%"),
        ("pct('x', 3)", "0%"),
        ("pct(1, 0)", "100%"),
        ("integer('-12.9')", -12),
        ("integer(12.9)", 12),
        ("float('1.999')", 1.99),
        ("float(null)", 0),
        ("stringify({a: [1, null, true]})", '{"a":[1,null,true]}'),
        ("encode('ä !~*()')", "%C3%A4%20!~*()"),
        ("count('abc') + count(info) + count(5)", 5),
        ("find(disks, 'mount', 'var')[0].free", 90),
        ("count(find(disks, 'mount', ''))", 2),
        ("find(null, 'a', 'b')", []),
        ("includes('abc', 'b')", True),
        ("includes(groups, 'db')", True),
        ("match(hostname, '^db[0-9]+$')", True),
        ("match('x\\ny', '^y')", False),
        ("match(12, '1')", True),
        ("server('s1')", "s1"),
        ("event('e1')", "e1"),
    ],
)
def test_functions(text: str, expected: Any) -> None:
    assert value(text) == expected


def test_integer_of_no_number_is_nan() -> None:
    assert math.isnan(value("integer('abc')"))


def test_a_server_filter() -> None:
    assert value('info.os.platform == "linux" && info.cpu.cores >= 4 && "db" in groups') is True
    assert value("userData.rev > 9 && !(info.cpu.avgLoad >= 1)") is True


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "1 +",
        "1 2",
        "(1",
        "a.",
        "a[",
        "a[1",
        "'open",
        "a ==",
        "== 1",
        "1 ? 2",
        "@",
        "a = 1",
        "a; b",
        "[1,",
        "[,]",
        "{a}",
        "{1: 2}",
        "in [1]",
        "f(1)",
        "min()",
        "floor(1, 2)",
        "match('a')",
        ".a == 1",
        "list[0].x == .y",
        "import os",
        "lambda: 1",
        "a.b()",
        "`x`",
    ],
)
def test_what_is_not_an_expression_is_refused(text: str) -> None:
    with pytest.raises(BadRequest):
        parse(text)


def test_a_refusal_names_the_character() -> None:
    with pytest.raises(BadRequest, match=r"character 5: unexpected '#'"):
        parse("1 + #")


@pytest.mark.parametrize(
    "text",
    [
        "match('x', '(')",
        "match('x', '(?=x)')",
        "match('x', bigpattern)",
        "match([1], 'x')",
        "encode(data)",
        "stringify([0 / 0])",
        "big + big",
        "stringify(many)",
        "stringify(deep)",
        "many[.a == 1]",
        "few[.a in numbers]",
        "few[text == .a]",
        "find(many, 'a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a', 'x')",
        "min([])",
    ],
)
def test_what_cannot_be_evaluated_says_so(text: str) -> None:
    deep: Any = 1
    for _ in range(500):
        deep = [deep]
    context = {
        "bigpattern": "a" * 2000,
        "data": {"a": 1},
        "big": "x" * 700_000,
        "many": [{"a": 1, "b": "x" * 50}] * 30_000,
        "deep": deep,
        "few": [{"a": -1}] * 100,
        "numbers": list(range(30_000)),
        "text": "x" * 500_000,
    }
    with pytest.raises(ExpressionError):
        value(text, context)


@pytest.mark.parametrize(
    "text",
    [
        "(" * (MAX_NESTING + 1) + "1" + ")" * (MAX_NESTING + 1),
        "[" * (MAX_NESTING + 1) + "]" * (MAX_NESTING + 1),
        "!" * (MAX_NESTING + 1) + "1",
        "-" * 5000 + "1",
        "a?" * 2000 + "1",
        " + ".join(["1"] * (MAX_HEIGHT + 2)),
        "a" + ".b" * (MAX_HEIGHT + 1),
        "1" + " " * MAX_SOURCE,
    ],
)
def test_depth_and_length_are_bounded(text: str) -> None:
    with pytest.raises(BadRequest):
        parse(text)


def test_the_deepest_allowed_expressions_are_evaluated() -> None:
    assert value(" + ".join(["1"] * (MAX_HEIGHT - 1))) == MAX_HEIGHT - 1
    nested = MAX_NESTING - 2
    assert value("min(" * nested + "1" + ")" * nested) == 1
    assert value("a" + ".b" * (MAX_HEIGHT - 1), {"a": None}) is None


def test_a_hostile_pattern_takes_linear_time() -> None:
    before = time.monotonic()
    assert value("match(text, '(a+)+$')", {"text": "a" * 50_000 + "b"}) is False
    assert time.monotonic() - before < 2


@pytest.mark.parametrize(
    ("text", "names", "params"),
    [
        ("server + params.x", {"server", "params"}, {"x"}),
        ("a.server", {"a"}, set()),
        ("params['y'].z", {"params"}, {"y"}),
        ("params[key]", {"params", "key"}, None),
        ("stringify(params)", {"params"}, None),
        ("list[.server == 1]", {"list"}, set()),
    ],
)
def test_an_expression_knows_what_it_mentions(
    text: str, names: set[str], params: set[str] | None
) -> None:
    expression = parse(text)
    assert expression.names == names
    assert expression.params == params


BEYOND = 10**400  # what no double can hold
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([BEYOND, -BEYOND])
    | st.floats()
    | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=10,
)
FRAGMENTS = (
    "a b .a [0] [.a ] ( ) + - * / % ^ // == < ! && || ? : in 1 'x' , { } min( match( find( "
    "bytes( number( round( encode( stringify( integer( pct( count("
)
fragments = st.sampled_from(FRAGMENTS.split())


@given(st.lists(fragments, max_size=12).map(" ".join), json_values, json_values)
def test_any_text_over_any_data_ends_in_a_value_or_a_named_error(text: str, a: Any, b: Any) -> None:
    with suppress(BadRequest, ExpressionError):
        value(text, {"a": a, "b": b})


@given(json_values, json_values)
def test_every_operator_and_function_takes_any_value(a: Any, b: Any) -> None:
    operators = ["+", "-", "*", "/", "//", "%", "^", "==", "!=", "<", "<=", ">", ">=", "in", "&&"]
    calls = ["floor(a)", "ceil(a)", "round(a)", "min(a, b)", "clamp(a, b, 1)", "bytes(a)"]
    calls += ["number(a)", "pct(a, b)", "integer(a)", "float(a)", "stringify(a)", "encode(a)"]
    calls += ["count(a)", "find(a, b, 'x')", "includes(a, b)", "match(a, b)", "server(a)"]
    for text in [*(f"a {operator} b" for operator in operators), *calls, "a[b]", "a[.b]", "!a"]:
        with suppress(ExpressionError):
            value(text, {"a": a, "b": b})
