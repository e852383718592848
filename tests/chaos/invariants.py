"""What must hold once an installation is quiet again, whatever was done to it (design.md 11).

Each check compares what was seen from outside (traffic.Record) with the ledger and with what
the API tells, and its message names what is wrong.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from domain.facts import JobCompleted, JobRequested, Json, LedgerFounded, Recorded
from projections.active_jobs import ActiveJobs
from projections.definitions import Definitions
from services.gateway.refold import compare, views_of
from services.ledger.connection import Ledger
from tests.chaos.harness import Api, Stack, eventually, of_kind
from tests.chaos.traffic import INTERVAL, Record, Traffic


def wait_for_quiet(api: Api, within: float = 90.0) -> None:
    """Until no job is left that has not ended."""
    last: list[Json] = [{}]  # the newest answer, to be told

    def quiet() -> bool:
        last[0] = api.persist("get_active_jobs", limit=1000)
        return not last[0]["rows"]

    try:
        eventually(quiet, "all jobs have ended", within, look=0.2)
    except AssertionError as error:
        left = [(j["id"], j["event"], j["state"], j.get("server")) for j in last[0]["rows"]]
        raise AssertionError(f"{error}; left: {left[:10]}") from None


def check_all(stack: Stack, traffic: Traffic) -> None:
    """Every promise, after `traffic.stop` and `wait_for_quiet`."""
    facts = stack.facts()
    api = stack.api
    check_commands(facts, traffic.record)
    check_jobs(facts, api, traffic.record)
    check_processes(facts, traffic.record, traffic.at_a_time)
    check_fires(facts, traffic)
    check_definitions(facts, api)
    check_views(stack)


def check_commands(facts: Sequence[Recorded], record: Record) -> None:
    """Every acknowledged command stands on the ledger, at the sequence that its reply named."""
    at = {recorded.sequence: recorded.fact.kind for recorded in facts}
    wrong = {s: (what, at.get(s)) for s, what in record.sequences.items() if at.get(s) != what}
    assert not wrong, f"acknowledged, but not on the ledger: {wrong}"
    updates = of_kind(facts, "EventUpdated")
    stored = [
        int(note.removeprefix("edit "))
        for fact in updates
        if fact.event == "edited" and (note := fact.definition.get("notes", "")).startswith("edit ")
    ]
    assert stored == sorted(set(stored)), f"an edit stands twice or out of order: {stored}"
    lost = set(record.edits) - set(stored)
    assert not lost, f"acknowledged edits are lost: {sorted(lost)}"


def check_jobs(facts: Sequence[Recorded], api: Api, record: Record) -> None:
    """Every acknowledged job was requested once and has exactly one result, which the API tells."""
    requested = Counter(fact.job for fact in of_kind(facts, "JobRequested"))
    completed = Counter(fact.job for fact in of_kind(facts, "JobCompleted"))
    assert not (lost := set(record.jobs) - set(requested)), f"acknowledged jobs are lost: {lost}"
    assert not (twice := [j for j, n in requested.items() if n > 1]), f"requested twice: {twice}"
    assert not (twice := [j for j, n in completed.items() if n > 1]), f"two results: {twice}"
    assert not (open_ := set(requested) - set(completed)), f"without a result: {open_}"
    codes = {fact.job: fact.code for fact in of_kind(facts, "JobCompleted")}
    failed = {j: codes[j] for j in record.jobs if codes[j] != 0}
    assert not failed, f"jobs did not succeed: {_told(facts, failed)}"
    stayed = {j: codes[j] for j in record.aborted if codes[j] != "abort"}
    assert not stayed, f"aborts were acknowledged and not carried out: {stayed}"
    for start in range(0, len(record.jobs), 100):
        ids = record.jobs[start : start + 100]
        rows = api.call("get_jobs", ids=ids)["jobs"]
        told = {row["id"]: row.get("code") for row in rows}
        assert told == dict.fromkeys(ids, 0), "the API tells another end than the ledger"


def _told(facts: Sequence[Recorded], jobs: dict[str, Any]) -> list[tuple[str, object, str]]:
    """How jobs ended, in words."""
    ends = {fact.job: fact for fact in of_kind(facts, "JobCompleted")}
    return [(id, ends[id].code, ends[id].description) for id in jobs]


def check_processes(facts: Sequence[Recorded], record: Record, at_a_time: int) -> None:
    """No attempt ran twice, none was forgotten, and never too many at once."""
    begun, ended = record.runs("begin"), record.runs("end")
    twice = {id: n for id, n in (begun + record.runs("long")).items() if n > 1}
    assert not twice, f"started more than once: {twice}"
    assert set(begun) == set(ended), f"began without an end: {set(begun) ^ set(ended)}"
    missing = set(record.jobs) - set(begun)
    assert not missing, f"succeeded without ever running: {missing}"
    known = {fact.job for fact in of_kind(facts, "JobRequested")}
    assert set(begun) <= known, f"ran without being on the ledger: {set(begun) - known}"
    assert record.most_at_a_time() <= at_a_time, f"{record.most_at_a_time()} ran at a time"


def check_fires(facts: Sequence[Recorded], traffic: Traffic) -> None:
    """Every due second of the clockwork fired once, on the ledger and as a process."""
    expected = set(range(traffic.first_due, traffic.last_due - INTERVAL, INTERVAL))
    requests: list[JobRequested] = of_kind(facts, "JobRequested")
    on_ledger = Counter(int(fact.now) for fact in requests if fact.event == "clock")
    as_process = traffic.record.fires()
    for where, fires in (("ledger", on_ledger), ("processes", as_process)):
        assert not (twice := [d for d, n in fires.items() if n > 1]), f"{where}: twice {twice}"
        missing = sorted(expected - set(fires))
        assert not missing, f"{where}: never fired {missing}"
    assert not of_kind(facts, "FiresMissed")


def check_definitions(facts: Sequence[Recorded], api: Api) -> None:
    """What the API shows is a fresh fold of the ledger: events, and no live jobs."""
    definitions = Definitions()
    jobs = ActiveJobs(definitions)
    for recorded in facts:
        definitions.apply(recorded)
        jobs.apply(recorded)
    shown = {row["id"]: row for row in api.call("get_events", limit=1000)["rows"]}
    folded = {id: version.record for id, version in definitions.events.items()}
    assert set(shown) == set(folded)
    for id, record in folded.items():
        differing = {k for k in record if k in shown[id] and shown[id][k] != record[k]}
        assert not differing, f"event {id} is shown otherwise than on the ledger: {differing}"
    assert not jobs.jobs, f"live in a fresh fold: {list(jobs.jobs)}"
    assert not jobs.owed, f"owed in a fresh fold: {list(jobs.owed)}"


def check_views(stack: Stack) -> None:
    """Every row of the gateways' files equals a fresh fold of the ledger."""

    async def compared(ledger: Ledger) -> None:
        first = await ledger.get(1)
        assert first is not None
        assert isinstance(first.fact, LedgerFounded)
        for path in views_of(stack.home):
            found = await compare(
                ledger, path, ledger_id=first.fact.ledger, progress=lambda done, of: None
            )
            assert not found.stale
            assert found.sound, f"{path.name}: {found.differences[:10]}"
            assert found.rows > 0

    stack.with_ledger(compared)


def completions(facts: Sequence[Recorded], event: str) -> list[JobCompleted]:
    """The ends of an event's jobs, in order."""
    return [fact for fact in of_kind(facts, "JobCompleted") if fact.event == event]
