"""The runner's wire protocol: plugins.md 2, 4, 4.1, 9.1 and 10."""

import json
import re
import signal
import time
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.runner import news as news_module
from services.runner import wire
from services.runner.news import (
    MAX_CUSTOM,
    MAX_DESCRIPTION,
    MAX_META,
    MAX_PUSHED,
    MAX_REPORT,
    MAX_ROWS,
    NO_DESCRIPTION,
    JobNews,
    fold_message,
    live_fields,
    settle,
    within,
)
from services.runner.reports import MAX_SHOWN, safe_html, shown_report
from services.runner.results import ShellReader, first_message, result, shell_end
from services.runner.spool import Mode
from services.runner.wire import (
    MAX_LINE,
    LogSegment,
    LogText,
    Message,
    Output,
    Remark,
    WireReader,
    read_message,
)

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "plugin_vectors.json").read_text())
GENERIC = [case for case in VECTORS["vectors"] if case["runner"] == "generic"]
SHELL = [case for case in VECTORS["vectors"] if case["runner"] == "shell"]
NOW = 1_700_000_000.0
PID = 4321


def read_all(
    reader: WireReader | ShellReader, data: bytes, cuts: list[int] | None = None
) -> list[Output]:
    """Feed data, cut at these places, and end the stream."""
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts or [])})
    pieces = pairwise(places)
    output = [each for a, b in pieces for each in reader.feed(data[a:b], a)]
    return output + reader.finish()


def read_shell(data: bytes, cuts: list[int] | None = None, *, annotate: bool) -> list[Output]:
    """As `read_all`, what a script writes."""
    reader = ShellReader(annotate=annotate)
    reader.at(NOW)
    return read_all(reader, data, cuts)


def log_of(output: list[Output], data: bytes) -> bytes:
    log = b""
    for each in output:
        if isinstance(each, LogSegment):
            log += data[each.offset : each.offset + each.length]
        elif isinstance(each, LogText):
            log += each.text
    return log


def messages_of(output: list[Output]) -> list[dict[str, Any]]:
    return [each.fields for each in output if isinstance(each, Message)]


def remarks_of(output: list[Output]) -> list[str]:
    return [each.text for each in output if isinstance(each, Remark)]


def lines(case: dict[str, Any], name: str) -> bytes:
    return "".join(line + "\n" for line in case.get(name, [])).encode()


def at_pid(value: Any) -> Any:
    return value.replace("{pid}", str(PID)) if isinstance(value, str) else value


def folded(*messages: dict[str, Any], **options: Any) -> tuple[JobNews, list[str]]:
    news = JobNews(**options)
    return news, [warning for each in messages for warning in fold_message(news, each)]


# The vectors


def test_all_vectors_are_here() -> None:
    assert len(GENERIC) + len(SHELL) == VECTORS["count"] == 32


@pytest.mark.parametrize("case", GENERIC, ids=lambda case: case["id"])
def test_generic_vector(case: dict[str, Any]) -> None:
    expect = case["expect"] | case.get("decision", {})
    stdout, stderr = lines(case, "lines"), lines(case, "stderr")
    output = read_all(WireReader(), stdout)
    news, meta, progress = JobNews(), remarks_of(output), []
    for message in messages_of(output):
        meta += fold_message(news, message)
        if "progress" in message:
            progress.append(news.fields["progress"])
    outcome = settle(news, exit_status=case.get("exit"), signal=case.get("signal"), pid=PID)
    job = news.fields | outcome.report
    job |= {"code": outcome.code, "description": outcome.description}

    for name, value in expect["job"].items():
        assert job[name] == at_pid(value), name
    assert news.details == expect.get("details", {})
    assert not set(expect.get("absent", [])) & set(job)
    assert log_of(output, stdout) + stderr == expect["log"].encode()
    assert progress == expect.get("progress_seen", [])
    assert all(any(part in line for line in meta) for part in expect.get("meta_contains", []))
    if "meta_contains" not in expect:
        assert meta == []


@pytest.mark.parametrize("case", SHELL, ids=lambda case: case["id"])
def test_shell_vector(case: dict[str, Any]) -> None:
    expect, params = case["expect"], case.get("params", {})
    stdout, stderr = lines(case, "lines"), lines(case, "stderr")
    annotate, passes = bool(params.get("annotate")), bool(params.get("pass"))
    mode = Mode(shell=True, annotate=annotate, passes=passes)
    status = -signal.Signals[case["signal"]] if "signal" in case else case["exit"]
    output = read_shell(stdout, annotate=mode.annotate)
    opening = first_message(mode, {"input": case.get("input", {})})
    messages = [*([opening] if opening else []), *messages_of(output)]
    ending = shell_end(case.get("signal") or status, stderr, shown=False)
    assert [*messages, ending] == expect["messages"]

    news, _ = folded(*messages)
    outcome = result(mode, news, status, PID, stderr)
    final = outcome.report | {"code": outcome.code, "description": outcome.description}
    for name, value in expect.get("final", {}).items():
        assert final[name] == value

    log = (log_of(output, stdout) + stderr).decode()
    if "log_pattern" in expect:
        assert re.search(expect["log_pattern"], log)
    elif "log_lines" in expect:
        assert sorted(log.splitlines()) == sorted(expect["log_lines"])
    else:
        assert log == expect["log"]


# Lines and chunks


PROTOCOL_LINES = (b'{"xy":1,"progress":0.5}', b' \t{"xy":true,"code":0} \r', b'{"xy":2}', b"{bad}")
PLAIN_LINES = (b'{"a":1}', b"{", b"}", b"plain", b"", b"   ", b" {", b"a { b }", b"\xff")
SHELL_LINES = (b"25%", b"101%", b"1.5%", b"7")
some_lines = st.sampled_from(PROTOCOL_LINES + PLAIN_LINES + SHELL_LINES)
streams = st.lists(some_lines | st.binary(max_size=8), max_size=12).map(b"\n".join)


@given(streams, st.lists(st.integers(0, 200), max_size=20))
def test_pieces_do_not_matter(data: bytes, cuts: list[int]) -> None:
    whole, pieces = read_all(WireReader(), data), read_all(WireReader(), data, cuts)
    assert messages_of(pieces) == messages_of(whole)
    assert remarks_of(pieces) == remarks_of(whole)
    assert log_of(pieces, data) == log_of(whole, data)
    assert without_neighbours(pieces) == without_neighbours(whole)


@given(streams, st.lists(st.integers(0, 200), max_size=20), st.booleans())
def test_pieces_do_not_matter_to_the_shell_runner(
    data: bytes, cuts: list[int], annotate: bool
) -> None:
    whole, pieces = (
        read_shell(data, annotate=annotate),
        read_shell(data, cuts, annotate=annotate),
    )
    assert messages_of(pieces) == messages_of(whole)
    assert log_of(pieces, data) == log_of(whole, data)


@given(streams)
def test_every_byte_is_log_or_message_by_the_rule_for_lines(data: bytes) -> None:
    kept, messages = b"", []
    for line in re.findall(rb"[^\n]*\n|[^\n]+", data):
        found = read_message(line.removesuffix(b"\n"))
        if isinstance(found, Message):
            messages.append(found.fields)
        else:
            kept += line
    output = read_all(WireReader(), data)
    assert log_of(output, data) == kept
    assert messages_of(output) == messages


@given(streams, st.integers(0, 200))
def test_a_new_reader_goes_on_where_the_old_one_was(data: bytes, cut: int) -> None:
    cut %= len(data) + 1
    first = WireReader()
    output = first.feed(data[:cut], 0)
    position, inside = first.resume_point
    second = WireReader(position=position, inside_line=inside)
    output += second.feed(data[position:], position) + second.finish()
    whole = read_all(WireReader(), data)
    assert log_of(output, data) == log_of(whole, data)
    assert messages_of(output) == messages_of(whole)


def without_neighbours(output: list[Output]) -> list[LogSegment]:
    """The log's segments with adjacent ones merged."""
    merged: list[LogSegment] = []
    for each in (each for each in output if isinstance(each, LogSegment)):
        if merged and merged[-1].offset + merged[-1].length == each.offset:
            merged[-1] = LogSegment(merged[-1].offset, merged[-1].length + each.length)
        else:
            merged.append(each)
    return merged


def test_lines_between_messages_are_one_segment() -> None:
    data = b'a\nb\n{"xy":1}\nc\nd'
    assert read_all(WireReader(), data) == [
        LogSegment(0, 4),
        Message({"xy": 1}),
        LogSegment(13, 3),
    ]


def test_log_of_an_open_line_is_not_held_back() -> None:
    reader = WireReader()
    assert reader.feed(b"Password: ", 0) == [LogSegment(0, 10)]
    assert reader.feed(b'{"xy":1,"code":0}\n', 10) == [LogSegment(10, 18)]
    assert reader.feed(b'{"xy":1}', 28) == []
    assert reader.finish() == [Message({"xy": 1})]


def test_a_last_line_without_line_feed_counts() -> None:
    assert read_all(WireReader(), b'{"xy":1,"code":3}') == [Message({"xy": 1, "code": 3})]
    assert read_all(WireReader(), b'{"xy":1') == [LogSegment(0, 7)]


def test_missing_bytes_are_an_error() -> None:
    reader = WireReader()
    reader.feed(b"abc", 0)
    with pytest.raises(ValueError, match="from 3 on, not from 5"):
        reader.feed(b"def", 5)


@pytest.mark.parametrize("marker", ["1", "true", "1.0"])
def test_accepted_markers(marker: str) -> None:
    assert isinstance(read_message(f'{{"xy":{marker}}}'.encode()), Message)


@pytest.mark.parametrize("marker", ["2", '"1"', "[]", "{}", '"true"', "-1"])
def test_other_true_markers_are_output_with_a_remark(marker: str) -> None:
    assert isinstance(read_message(f'{{"xy":{marker}}}'.encode()), Remark)


@pytest.mark.parametrize("marker", ["0", "false", "null", '""'])
def test_false_markers_are_plain_output(marker: str) -> None:
    assert read_message(f'{{"xy":{marker}}}'.encode()) is None


@pytest.mark.parametrize(
    "line",
    [
        b'{"xy":1,"a":NaN}',
        b'{"xy":1,"progress":1e400}',
        b'{"xy":1,"progress":1' + b"0" * 400 + b"}",
        b'{"xy":1,"complete":1,"code":-1' + b"0" * 400 + b"}",
        b'{"xy":1,"data":{"a":[{"b":1' + b"0" * 309 + b"}]}}",
        b'{"xy":1,"a":' + b"[" * 500 + b"}",
        b'{"xy":1,"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
)
def test_what_no_ledger_could_hold_is_not_a_message(line: bytes) -> None:
    assert isinstance(read_message(line), Remark)


def test_many_digits_in_a_text_are_no_number() -> None:
    assert isinstance(read_message(b'{"xy":1,"label":"' + b"1" * 400 + b'"}'), Message)


def test_bytes_that_are_not_utf8_are_replaced() -> None:
    assert read_message(b'{"xy":1,"label":"\xff"}') == Message({"xy": 1, "label": "\ufffd"})


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (r"caf\udce9", "caf\ufffd"),
        (r"\ud83d\ude00 \uDE00\uD83D", "\U0001f600 \ufffd\ufffd"),
        (r"\\udce9 \udce9", "\\udce9 \ufffd"),
    ],
)
def test_half_a_character_does_not_cost_a_job_its_result(written: str, read: str) -> None:
    found = read_message(f'{{"xy":1,"code":3,"description":"{written}"}}'.encode())
    assert found == Message({"xy": 1, "code": 3, "description": read})


def test_remarks_are_bounded() -> None:
    data = b"{bad}\n" * 1000
    output = read_all(WireReader(), data)
    assert len(remarks_of(output)) == wire.MAX_WARNINGS
    assert log_of(output, data) == data


@pytest.mark.parametrize("size", [-1, 0, 1])
@pytest.mark.parametrize("piece", [1 << 20, 1 << 30])
def test_the_longest_line_that_is_a_message(size: int, piece: int) -> None:
    frame = b'{"xy":1,"label":""}'
    line = frame.replace(b'""', b'"' + b"x" * (MAX_LINE + size - len(frame)) + b'"')
    data = b"a\n" + line + b"\nb\n"
    output = read_all(WireReader(), data, list(range(0, len(data), piece)))
    assert len(messages_of(output)) == (size <= 0)
    assert len(log_of(output, data)) == (4 if size <= 0 else len(data))


def test_a_stream_without_line_feeds_is_log_at_once_when_it_gets_too_long() -> None:
    reader = WireReader()
    piece = b"{" * (MAX_LINE // 2 + 1)
    assert reader.feed(piece, 0) == []
    assert reader.feed(piece, len(piece)) == [LogSegment(0, 2 * len(piece))]


# What messages do


def test_progress_is_clamped_and_anything_but_a_number_ignored() -> None:
    seen = []
    news = JobNews()
    for value in (-1, 0.25, 7, "0.5", None, True, [1], float("inf")):
        fold_message(news, {"xy": 1, "progress": value})
        seen.append(news.fields["progress"])
    assert seen == [0, 0.25, 1, 1, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("code", "settled"),
    [(None, 0), ("", 0), (0, 0), ("DB down!", "db_down_"), (-1, -1), (2.5, 2.5), ([1], "unknown")],
)
def test_codes(code: Any, settled: Any) -> None:
    news, _ = folded({"xy": 1, "code": code})
    outcome = settle(news, exit_status=9)
    assert outcome.code == settled
    assert outcome.description == ("" if settled == 0 else NO_DESCRIPTION)


def test_complete_must_be_true() -> None:
    news, _ = folded({"xy": 1, "complete": False})
    assert not news.final


def test_nothing_counts_once_an_abort_has_begun() -> None:
    news = JobNews()
    news.close()
    assert fold_message(news, {"xy": 1, "progress": 0.5, "code": 0}) == []
    assert (news.fields, news.final) == ({}, False)


@pytest.mark.parametrize("name", ["type", "state"])
def test_a_printed_request_is_ignored(name: str) -> None:
    news, warnings = folded({"xy": 1, name: "x", "code": 5, "data": {"a": 1}})
    assert (news.fields, news.details, warnings) == ({}, {}, [])


def test_a_child_cannot_overwrite_the_job() -> None:
    stolen = {"id": "j9", "event": "e9", "targets": ["x"], "server": "s", "retry_count": 0}
    news, _ = folded({"xy": 1, **stolen, "pid": 1})
    assert news.fields == {"custom": {**stolen, "pid": 1}}


@pytest.mark.parametrize("name", ["tags", "actions", "limits", "activity", "log_file"])
def test_what_only_push_may_add_is_discarded(name: str) -> None:
    news, warnings = folded({"xy": 1, name: ["x"]})
    assert news.fields == {}
    assert len(warnings) == 1


def test_delete_event_is_refused() -> None:
    news, warnings = folded({"xy": 1, "delete_event": True})
    assert news.fields == {}
    assert "delete_event is refused" in warnings[0]


def test_update_event_needs_leave_and_is_limited_to_some_keys() -> None:
    message = {"xy": 1, "update_event": {"enabled": False, "targets": ["x"], "tags": ["a"]}}
    refused, warnings = folded(message)
    assert refused.fields == {}
    assert "not allowed" in warnings[0]
    news, warnings = folded(message, may_update_event=True)
    assert news.fields == {"update_event": {"enabled": False, "tags": ["a"]}}
    assert "may not change targets" in warnings[0]


def test_pushed_actions_reach_the_event_no_further_than_messages_do() -> None:
    actions = [{"type": kind, "condition": "complete"} for kind in ("delete", "disable", "tag")]
    message = {"xy": 1, "push": {"actions": actions}}
    refused, warnings = folded(message)
    assert refused.fields == {"push": {"actions": actions[2:]}}
    assert ["delete" in warnings[0], "disable" in warnings[1]] == [True, True]
    news, _ = folded(message, may_update_event=True)
    assert news.fields == {"push": {"actions": actions[1:]}}


@pytest.mark.parametrize(
    ("push", "problem"),
    [
        (["x"], "Not an object: push"),
        ({"tags": "x"}, "Property is not an array: tags"),
        ({"tags": ["x"], "a-b": []}, "Invalid property name: a-b"),
        ({"__proto__": []}, "Unknown push: __proto__"),
        ({"targets": ["x"]}, "Unknown push: targets"),
    ],
)
def test_a_bad_push_changes_nothing(push: Any, problem: str) -> None:
    news, warnings = folded({"xy": 1, "push": push})
    assert news.fields == {}
    assert problem in warnings[0]


def test_a_push_does_not_share_lists_with_its_message() -> None:
    message = {"xy": 1, "push": {"tags": ["a"]}, "files": ["f"], "data": {"l": [1]}}
    folded(message, message)
    assert message == {"xy": 1, "push": {"tags": ["a"]}, "files": ["f"], "data": {"l": [1]}}


def test_only_the_latest_report_is_shown() -> None:
    news, _ = folded(
        {"xy": 1, "html": {"content": "a"}},
        {"xy": 1, "markdown": {"content": "b"}},
        {"xy": 1, "text": "no report"},
    )
    assert news.fields == {"markdown": {"content": "b"}}


def test_perf_may_be_text() -> None:
    news, _ = folded({"xy": 1, "perf": "db=1.5&http=2&x=y"})
    assert news.fields == {"perf": {"db": 1.5, "http": 2.0, "x": "y"}}


def test_sizes_are_capped_with_a_warning() -> None:
    news, warnings = folded(
        {"xy": 1, "description": "é" * MAX_DESCRIPTION},
        {"xy": 1, "table": {"rows": [[1]] * (MAX_ROWS + 1), "title": "t"}},
        {"xy": 1, "html": {"content": "x" * (MAX_REPORT + 1)}},
        {"xy": 1, "push": {"tags": ["t"] * (MAX_PUSHED + 1)}},
        {"xy": 1, "strange": "x" * MAX_CUSTOM},
        {"xy": 1, "code": "x" * 5000},
    )
    assert len(news.fields["description"].encode()) == MAX_DESCRIPTION
    assert len(news.fields["table"]["rows"]) == MAX_ROWS
    assert len(news.fields["html"]["content"]) == MAX_REPORT
    assert len(news.fields["push"]["tags"]) == MAX_PUSHED
    assert "custom" not in news.fields
    assert len(settle(news).code) < 200
    assert len(warnings) == 5


def test_collected_data_is_capped_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(news_module, "MAX_DATA", 100)
    part = {"xy": 1, "data": {"list": ["x" * 30]}}
    news, warnings = folded(part, part, part)
    assert news.details == {"data": {"list": ["x" * 30] * 2}}
    assert "exceeds 100 bytes" in warnings[0]


def test_warnings_of_one_job_are_bounded() -> None:
    _, warnings = folded(*[{"xy": 1, "data": []}] * (MAX_META + 50))
    assert len(warnings) == MAX_META + 1


TOLD = ("instant", "progress", "status", "label", "perf", "table", "html")


@given(st.integers(0, 200), st.dictionaries(st.sampled_from(TOLD), st.text(max_size=100)))
def test_what_acts_comes_first_where_there_is_little_room(size: int, live: dict[str, str]) -> None:
    """What does not fit is left out whole; a table is never in it."""
    found = within(size, live)
    assert sum(len(value) for value in found.values()) <= size
    assert found.items() <= live.items()
    assert "table" not in found
    if len(live.get("instant", "x" * 201)) <= size:
        assert "instant" in found


def test_live_fields_are_those_to_look_at() -> None:
    news, _ = folded({"xy": 1, "progress": 0.5, "status": "s", "data": {"a": 1}, "files": ["f"]})
    assert live_fields(news) == {"progress": 0.5, "status": "s"}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
names = st.sampled_from(
    "code complete description progress status label perf table html markdown text data "
    "workflowData serverData files push update_event delete_event tags custom id".split()
)


@given(st.lists(st.dictionaries(names, json_values, max_size=5), max_size=6))
def test_any_messages_fold_and_settle_into_something_that_can_be_recorded(
    messages: list[dict[str, Any]],
) -> None:
    news, warnings = folded(*messages, may_update_event=True)
    outcome = settle(news, exit_status=0)
    assert isinstance(outcome.code, int | float | str)
    assert isinstance(outcome.description, str)
    assert json.dumps(outcome.report)
    assert all(warning.startswith("WARNING") for warning in warnings)


# The shell runner


@pytest.mark.parametrize(
    ("line", "progress"),
    [("0%", 0), ("7%", 0.07), ("100%", 1), ("00099%", 0.99), ("9" * 20 + "%", 1)],
)
def test_whole_percentages_are_progress(line: str, progress: float) -> None:
    data = (line + "\n").encode()
    assert read_shell(data, annotate=False) == [Message({"xy": 1, "progress": progress})]


@pytest.mark.parametrize("line", ["12.5%", " 5%", "%", "-5%", "5 %", "5% done", "٥%"])
def test_other_percentages_are_output(line: str) -> None:
    data = (line + "\n").encode()
    assert read_shell(data, annotate=False) == [LogSegment(0, len(data))]


def test_each_line_is_stamped_once_when_it_begins() -> None:
    reader = ShellReader(annotate=True)
    output: list[Output] = []
    for seconds, (offset, chunk) in enumerate([(0, b"one\ntw"), (6, b"o\n\n{x")]):
        reader.at(NOW + seconds)
        output += reader.feed(chunk, offset)
    output += reader.finish()
    stamps = [stamp_of(NOW), stamp_of(NOW), stamp_of(NOW + 1), stamp_of(NOW + 1)]
    said = ["one", "two", "", "{x"]
    assert log_of(output, b"").decode().splitlines() == [
        f"{stamp} {line}" for stamp, line in zip(stamps, said, strict=True)
    ]


def stamp_of(at: float) -> str:
    return datetime.fromtimestamp(at).strftime("[%Y/%m/%d %H:%M:%S]")


def test_the_error_box_shows_stderr_harmlessly() -> None:
    message = shell_end(1, b"<b>bad</b>\nsecond\n", shown=False)
    assert message["description"] == "Script exited with code: 1: <b>bad</b>"
    assert message["html"]["content"] == "<pre>&lt;b&gt;bad&lt;/b&gt;\nsecond</pre>"


def test_no_error_box_when_the_script_sent_a_report() -> None:
    assert "html" not in shell_end(0, b"note", shown=True)


def test_a_long_first_stderr_line_stays_out_of_the_description() -> None:
    assert shell_end(1, b"x" * 255, shown=True)["description"].endswith("x" * 255)
    assert shell_end(1, b"x" * 256, shown=True)["description"] == "Script exited with code: 1"


# Reports


@pytest.mark.parametrize(
    "content",
    [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        '<a href="javascript:alert(1)">x</a>',
        "<iframe src=//x></iframe>",
        "<style>*{}</style>",
        "<form><input></form>",
        "<svg><script>1</script></svg>",
    ],
)
def test_dangerous_html_is_taken_out(content: str) -> None:
    shown = shown_report({"html": {"content": content}}, str)["html"]["content"]
    assert not re.search("script|onerror|iframe|style|form|input|svg", shown)


def test_markdown_and_text_become_html() -> None:
    markdown = {"title": "R", "content": "**hi**\n\n<script>x</script>\n\n|a|\n|-|\n|1|"}
    shown = shown_report({"markdown": markdown, "label": "L"}, str)
    assert set(shown) == {"html", "label"}
    assert shown["html"]["title"] == "R"
    assert "<strong>hi</strong>" in shown["html"]["content"]
    assert "<td>1</td>" in shown["html"]["content"]
    assert "script" not in shown["html"]["content"]
    assert shown_report({"text": {"content": "a < b"}}, str) == {
        "html": {"content": "<pre>a &lt; b</pre>"}
    }


def test_what_a_macro_inserts_is_sanitised_too() -> None:
    fields = {"html": {"title": "{{ x }}", "content": "<p>{{ x }}</p>"}}
    shown = shown_report(fields, lambda text: text.replace("{{ x }}", "<script>1</script>"))
    assert shown == {"html": {"content": "<p></p>", "title": ""}}


def test_fields_without_a_report_stay_as_they_are() -> None:
    assert shown_report({"label": "x"}, str) == {"label": "x"}


@pytest.mark.parametrize(
    "content",
    [
        "<div>" * 200_000,
        "".join(f"<b title={n}><p>" for n in range(20_000)),
        "".join(f"<p><b title={n}>" for n in range(16)) + "<p>x" * 200_000,
    ],
    ids=["nested", "unclosed", "repeated"],
)
def test_tangled_html_is_shown_as_text_in_bounded_time(content: str) -> None:
    before = time.monotonic()
    shown = safe_html(content)
    assert shown.startswith("<pre>&lt;")
    assert len(shown) < MAX_SHOWN
    assert time.monotonic() - before < 5


def test_a_large_table_is_not_tangled() -> None:
    content = "<div><table>" + "<tr><td>1</td><td>2</td></tr>" * 20_000 + "</table></div>"
    assert safe_html(content).count("<td>") == 40_000
