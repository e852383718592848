"""Expansion of `{{ expression }}` in texts and job parameters (execution.md 4, data.md 2.4).

Responsible for finding macros in a text, inserting their values, the order in which parameters
see each other, what has to wait for dispatch, and `_xy_override_NAME`. Must not know where jobs
or servers are kept: every value comes from the context that is passed in.

**Text that came from a macro is never looked at again.** The macros of a text are found once, in
the text as its author wrote it, so that the output of an upstream job cannot smuggle one in.
A macro inside a macro hands its *value* to the outer one, never source text. For the same
reason a text with a macro that must wait stays untouched as a whole: a half-expanded one would
be looked at again at dispatch.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from domain.errors import BadRequest
from domain.expressions import (
    ExpressionError,
    Resolver,
    Work,
    evaluate,
    parse,
    to_json,
    to_text,
)

AT_DISPATCH = frozenset({"server", "groups"})
"""Names that have no value before a server is chosen."""

MAX_ROUNDS = 32
"""Macros inside macros: each level is one round of the reference's repeated scan."""

MAX_MACROS = 1000
"""Macros in one text."""

MAX_EXPANDED = 4 * 1024 * 1024
"""Characters that expansion may produce: for one text, and for all parameters of a job."""

MAX_WORK = 200_000
"""Evaluation steps for one text, or for all parameters of a job."""

OVERRIDE = "_xy_override_"

FORBIDDEN_OVERRIDES = frozenset(
    "plugin params id event enabled category fields actions limits triggers workflow command "
    "script uid gid cwd env kill runner".split()
)
"""Job properties that no parameter may set: refused on save, ignored at launch."""

_RUNTIME = frozenset(
    "state started updated completed code description complete server groups progress source "
    "username now until position retry_count retry_prev retried retry_ok jobs workflow parent "
    "suspended remote pid cpu mem disk net procs conns timelines log_file_size activity data "
    "files output event_title event_revision final elapsed redraw stype splugin event status "
    "table html perf first_attempt type".split()
)

_HIDDEN = frozenset({"secrets", "env"})
_MARK = re.compile(r"\{\{|\}\}")
_QUOTED = re.compile(r"""\\.|["']""", re.DOTALL)


@dataclass(frozen=True, slots=True)
class _Macro:
    parts: tuple["str | _Macro", ...]


_Part = str | _Macro


def param_context(job: Mapping[str, Any]) -> dict[str, Any]:
    """What macros in parameters may read: the job, with `data` and `files` of its input.

    Never the secrets or the process environment.
    """
    given = job.get("input")
    given = given if isinstance(given, Mapping) else {}
    context = {name: value for name, value in job.items() if name not in _HIDDEN}
    return context | {"data": given.get("data"), "files": given.get("files")}


def expand_text(
    text: str,
    context: Mapping[str, Any],
    *,
    missing: str = "",
    defer: frozenset[str] = frozenset(),
    resolvers: Mapping[str, Resolver] | None = None,
) -> str:
    """The text with the value of each macro in its place.

    Objects and arrays appear as JSON, a missing value as `missing`, a failed macro as
    `(ERROR: reason)`. A text with a macro that mentions a name in `defer` is returned unchanged.
    """
    if "{{" not in text or _waits(text, defer, frozenset()):
        return text
    return _Expansion(context, missing, resolvers or {}).text(text)


def expand_params(
    params: Mapping[str, Any],
    field_ids: Iterable[str],
    context: Mapping[str, Any],
    *,
    defer: frozenset[str] = frozenset(),
    only: frozenset[str] | None = None,
    resolvers: Mapping[str, Resolver] | None = None,
) -> dict[str, Any]:
    """The parameters, in their own order, with macros in top-level texts expanded.

    Event fields (`field_ids`) are expanded first and in that order, then the rest; later ones
    see earlier results as `params.NAME`. Nested values are left alone. `context` is the job.

    Two calls make one expansion: at launch with `defer=AT_DISPATCH`, which leaves the parameters
    named by `deferred_params` exactly as written; at dispatch with `only=` those names, on the
    result of the first call and a job that has its server.
    """
    waiting = deferred_params(params, field_ids, defer)
    result = dict(params)
    scope = param_context(context) | {"params": result}
    expansion = _Expansion(scope, "", resolvers or {})
    for name in _order(params, field_ids):
        text = result[name]
        chosen = name not in waiting and (only is None or name in only)
        if chosen and isinstance(text, str) and "{{" in text:
            result[name] = expansion.text(text)
    return result


def deferred_params(
    params: Mapping[str, Any],
    field_ids: Iterable[str],
    defer: frozenset[str] = AT_DISPATCH,
) -> frozenset[str]:
    """Names of parameters that must wait: they mention a name in `defer`, or one that waits.

    To be asked of the parameters as their author wrote them, before any expansion.
    """
    if not defer:
        return frozenset()
    waiting: set[str] = set()
    for name in _order(params, field_ids):
        text = params[name]
        if isinstance(text, str) and "{{" in text and _waits(text, defer, frozenset(waiting)):
            waiting.add(name)
    return frozenset(waiting)


def overrides_of(params: Mapping[str, Any]) -> dict[str, Any]:
    """Job properties set by `_xy_override_NAME` parameters; empty and forbidden ones are skipped.

    To be asked after expansion.
    """
    return {
        name.removeprefix(OVERRIDE): value
        for name, value in params.items()
        if name.startswith(OVERRIDE)
        and name.removeprefix(OVERRIDE) not in FORBIDDEN_OVERRIDES | {""}
        and not is_runtime(name.removeprefix(OVERRIDE))
        and value not in (None, "", [], {})
    }


def is_runtime(key: str) -> bool:
    """Whether only its owner may say this of a job (api.md 3.6, data.md 6).

    Internal keys name bytes in CHUNKS: who may choose them may read and delete what is others'.
    """
    return key in _RUNTIME or key.startswith("_")


def forbidden_override(param_id: str) -> bool:
    """Whether a parameter id tries to set a job property that no parameter may set."""
    name = param_id.removeprefix(OVERRIDE)
    return name != param_id and name in FORBIDDEN_OVERRIDES


def _order(params: Mapping[str, Any], field_ids: Iterable[str]) -> list[str]:
    fields = [name for name in dict.fromkeys(field_ids) if name in params]
    return [*fields, *(name for name in params if name not in set(fields))]


# Finding macros


def _template(text: str) -> tuple[_Part, ...]:
    """Split a text into plain parts and macros.

    `}}` closes the innermost open `{{`; what never closes is plain text. Raises BadRequest
    beyond MAX_MACROS or MAX_ROUNDS.
    """
    open_parts: list[list[_Part]] = [[]]
    position, macros = 0, 0
    for found in _MARK.finditer(text):
        if found[0] == "{{":
            open_parts[-1].append(text[position : found.start()])
            open_parts.append([])
            if len(open_parts) > MAX_ROUNDS + 1:
                raise BadRequest(f"macros inside macros, more than {MAX_ROUNDS} levels")
        elif len(open_parts) == 1:
            continue
        else:
            open_parts[-1].append(text[position : found.start()])
            macro = _Macro(tuple(open_parts.pop()))
            open_parts[-1].append(macro)
            macros += 1
        position = found.end()
    if macros > MAX_MACROS:
        raise BadRequest(f"more than {MAX_MACROS} macros")
    open_parts[-1].append(text[position:])
    return _unclosed(open_parts)


def _unclosed(open_parts: list[list[_Part]]) -> tuple[_Part, ...]:
    parts = open_parts[0]
    for inner in open_parts[1:]:
        parts += ["{{", *inner]
    return tuple(parts)


def _waits(text: str, defer: frozenset[str], params: frozenset[str]) -> bool:
    """Whether a macro of the text mentions a name in `defer`, or one of these parameters."""
    if not defer:
        return False
    try:
        return any(_part_waits(part, defer, params) for part in _template(text))
    except BadRequest:
        return False


def _part_waits(part: _Part, defer: frozenset[str], params: frozenset[str]) -> bool:
    if isinstance(part, str):
        return False
    if any(_part_waits(inner, defer, params) for inner in part.parts):
        return True
    try:
        expression = parse(_source(part, lambda _: None))
    except BadRequest:
        return False
    names_fixed = expression.params is not None and all(isinstance(p, str) for p in part.parts)
    reads = params & expression.params if names_fixed and expression.params else params
    return bool(expression.names & defer) or ("params" in expression.names and bool(reads))


# Inserting values


class _Expansion:
    """One run over a text or a set of parameters: where values come from, and what is left of
    the work and the characters allowed."""

    def __init__(
        self, context: Mapping[str, Any], missing: str, resolvers: Mapping[str, Resolver]
    ) -> None:
        self.context = context
        self.missing = missing
        self.resolvers = resolvers
        self.work = Work(MAX_WORK)
        self.room = MAX_EXPANDED

    def text(self, text: str) -> str:
        try:
            parts = _template(text)
        except BadRequest as error:
            return _error(error)
        return "".join(part if isinstance(part, str) else self.inserted(part) for part in parts)

    def inserted(self, macro: _Macro) -> str:
        try:
            value = self.value(macro)
            text = self.missing if value is None else to_text(value)
            self.work.spend(len(text) // 64)
            if len(text) > self.room:
                raise ExpressionError("Expanded text is too long")
        except (BadRequest, ExpressionError) as error:
            text = _error(error)
        self.room -= len(text)
        return text

    def value(self, macro: _Macro) -> Any:
        source = _source(macro, self.value)
        self.work.spend(len(source) // 64)
        return evaluate(parse(source), self.context, resolvers=self.resolvers, work=self.work)


def _error(error: Exception) -> str:
    return f"(ERROR: {error})"


def _source(macro: _Macro, value_of: Callable[[_Macro], Any]) -> str:
    """The expression of a macro; inner macros stand in it as literals, so data stays data."""
    source, quote = "", ""
    for part in macro.parts:
        if isinstance(part, str):
            source, quote = source + part, _quote_after(part, quote)
        elif quote:
            source += _escaped(to_text(value_of(part)))
        else:
            source += f" {to_json(value_of(part))} "
    return source.strip()


def _quote_after(text: str, quote: str) -> str:
    """The quotation mark still open at the end of a piece of an expression, or nothing."""
    for found in _QUOTED.finditer(text):
        if not quote and len(found[0]) == 1:
            quote = found[0]
        elif found[0] == quote:
            quote = ""
    return quote


def _escaped(text: str) -> str:
    """Text for the inside of a quoted literal, whichever its quotation mark."""
    return json.dumps(text, ensure_ascii=False)[1:-1].replace("'", "\\'")
