"""Turns the report a job posted (html, markdown or text) into html that is safe to show.

Responsible for macros in the content, conversion and the allow-list of elements
(plugins.md 4). Must not know where reports come from or go to.

The order matters: macros first, sanitising last, so that data inserted by a macro is subject to
the allow-list like everything else.
"""

import html
import re
from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

from domain.facts import Json
from services.runner.news import REPORTS

if TYPE_CHECKING:
    from markdown_it import MarkdownIt

MAX_TANGLE = 1_000_000
"""Sum of the number of open elements at each tag; beyond it, html is shown as plain text.

The parser's work and what it makes of unclosed elements grow with this (20 seconds for 0.5 MB of
nested `<div>`, 38 MB out of 30 KB of unclosed `<b>`); a table of 300,000 cells stays below.
"""

MAX_SHOWN = 4 * 1024 * 1024
"""Characters of safe html; the parser repeats unclosed elements, so a little can become much."""

_TAGS = frozenset(
    "a abbr b blockquote br caption center code col colgroup dd del details dfn div dl dt em "
    "figcaption figure h1 h2 h3 h4 h5 h6 hr i img ins kbd li mark ol p pre q s samp small span "
    "strike strong sub summary sup table tbody td tfoot th thead time tr tt u ul var wbr".split()
)
_ATTRIBUTES = {
    "*": {"title", "align"},
    "a": {"href"},
    "img": {"src", "alt", "width", "height"},
    "td": {"colspan", "rowspan"},
    "th": {"colspan", "rowspan"},
    "ol": {"start"},
    "details": {"open"},
    "code": {"class"},
}
_NEVER_DEEPER = frozenset(
    "area base br col embed hr img input link meta source track wbr "
    "p li dt dd td th tr thead tbody tfoot colgroup option".split()
)
_TAG = re.compile(r"<(/?)([a-zA-Z][^\s/>]*)")
_SCHEMES = {"http", "https", "mailto"}


def safe_html(content: str) -> str:
    """Html reduced to harmless elements and attributes: no scripts, styles, forms or frames."""
    if _is_tangled(content):
        return text_to_html(content)
    import nh3  # a megabyte that most runners never need

    clean = nh3.clean(
        content,
        tags=set(_TAGS),
        attributes=_ATTRIBUTES,
        url_schemes=_SCHEMES,
        link_rel="noopener noreferrer nofollow",
    )
    return clean if len(clean) <= MAX_SHOWN else text_to_html(content)


def _is_tangled(content: str) -> bool:
    tangle, depth, is_open = 0, 0, Counter[str]()
    for closing, tag in _TAG.findall(content):
        name = tag.lower()
        if not closing and name not in _NEVER_DEEPER:
            is_open[name] += 1
            depth += 1
        elif closing and is_open[name]:
            is_open[name] -= 1
            depth -= 1
        tangle += depth
    return tangle > MAX_TANGLE


@cache
def _markdown() -> "MarkdownIt":
    """Made at the first report in Markdown: most runners never see one."""
    from markdown_it import MarkdownIt

    return MarkdownIt("gfm-like", {"linkify": False, "html": True})


def markdown_to_html(content: str) -> str:
    """Markdown (with tables) as safe html."""
    return safe_html(_markdown().render(content))


def text_to_html(content: str) -> str:
    """Plain text as it stands, in a fixed-width block."""
    return f"<pre>{html.escape(content, quote=False)}</pre>"


def shown_report(fields: Json, expand: Callable[[str], str]) -> Json:
    """The fields with whichever report they hold as `html {title?, content, caption?}`.

    `expand` inserts macros with the job as context. Title and caption lose all markup.
    """
    kind = next((name for name in REPORTS if name in fields), None)
    if kind is None:
        return fields
    others = {name: value for name, value in fields.items() if name not in REPORTS}
    report = fields[kind]
    convert = {"html": safe_html, "markdown": markdown_to_html, "text": text_to_html}[kind]
    shown = {"content": convert(expand(report["content"]))}
    import nh3

    for label in ("title", "caption"):
        if report.get(label):
            shown[label] = nh3.clean(expand(report[label]), tags=set())
    return others | {"html": shown}
