"""Actions against a real ledger, a real web hook receiver and a real SMTP exchange."""

import asyncio
import contextlib
import hashlib
import hmac
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from domain import facts as f
from domain.defaults import default_facts
from domain.facts import Json
from services.ledger import live
from services.ledger.chunks import write_chunks
from services.ledger.connection import Ledger
from services.ledger.errors import LedgerUnavailable
from services.ledger.secrets import server_secret, web_hook_key
from services.scheduler.action_plugins import outcome_of
from services.scheduler.service import Scheduler
from services.scheduler.web_hooks import SIGNATURE
from services.settings import Settings
from tests.services.listeners import HookReceiver, MailServer, hook_receiver, mail_server
from tests.services.test_scheduler import WHO, Stack


@pytest.fixture
async def hooks() -> AsyncIterator[HookReceiver]:
    async with hook_receiver() as receiver:
        yield receiver


@pytest.fixture
async def mails() -> AsyncIterator[MailServer]:
    async with mail_server() as server:
        yield server


@pytest.fixture
async def stack(ledger: Ledger, tmp_path: Path, mails: MailServer) -> AsyncIterator[Stack]:
    for number, fact in enumerate(default_facts(time.time(), WHO)):
        await ledger.append(fact, id=f"default-{number}")
    settings = Settings(
        data_dir=tmp_path,
        timezone="UTC",
        mail_host="127.0.0.1",
        mail_port=mails.port,
        mail_from="jobs@example.org",
        base_url="http://jobs.example.org",
    )
    made = Stack(ledger, settings)
    await made.runner.join()
    tasks = [
        asyncio.create_task(made.book.follower.run()),
        asyncio.create_task(made.runner.serve()),
    ]
    yield made
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def crashing_scheduler(stack: Stack, url: str) -> AsyncIterator[Scheduler]:
    """A scheduler that ends without a word: its connection goes first."""
    async with Ledger.open(url, name="scheduler") as own:
        scheduler = Scheduler(stack.settings, own, time.time)
        task = asyncio.create_task(scheduler.run())
        yield scheduler
        await own.nc.close()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def action(type: str, condition: str = "complete", **fields: object) -> Json:
    return {"type": type, "condition": condition, "enabled": True} | fields


async def record(stack: Stack, catalog: str, id: str, **fields: object) -> None:
    content = {"id": id, "title": id, "enabled": True} | fields
    fact = f.from_plain(
        f.CatalogCreated,
        {"at": time.time(), "actor": WHO, "type": catalog, "id": id, "record": content},
    )
    await stack.ledger.append(fact, id=f"record-{id}")


async def ask(stack: Stack, kind: type[f.FactBase], job: str, **fields: object) -> None:
    fact = f.from_plain(kind, {"at": time.time(), "actor": WHO, "event": "e1", "job": job} | fields)
    await stack.ledger.append(fact, id=f"{kind.__name__}-{job}")  # type: ignore[arg-type]


async def results(stack: Stack, job: str) -> list[f.ActionEnded]:
    """The results of a job's actions, once it is final."""
    await stack.ended(job)
    found: list[Any] = [recorded.fact for recorded in stack.book.of(f.ActionEnded, job)]
    return sorted(found, key=lambda fact: (fact.stage, fact.index))


# --- web hooks


async def test_a_web_hook_is_signed_and_its_answer_recorded(
    stack: Stack, hooks: HookReceiver
) -> None:
    await stack.define(actions=[action("web_hook", url=f"{hooks.url}/in", text="Look")])
    hooks.answers = [500]
    async with stack.scheduler():
        job = await stack.run()
        [done] = await results(stack, job)
    [request] = hooks.received
    key = web_hook_key(server_secret(stack.settings.data_dir), f"{hooks.url}/in")
    signed = hmac.new(key, request.body, hashlib.sha256).hexdigest()
    assert request.headers[SIGNATURE.lower()] == f"sha256={signed}"
    assert request.headers["idempotency-key"] == f"{job}:end:0"
    assert request.json["event_id"] == "e1"
    assert request.json["action"] == "job_success"
    assert request.json["code"] == 0
    assert request.json["text"].endswith("Look")
    assert (done.code, done.http_status) == (0, 500)
    assert done.description == "Success (HTTP 500 Said)"


async def test_a_hook_record_says_what_is_sent(stack: Stack, hooks: HookReceiver) -> None:
    await record(
        stack,
        "webhook",
        "w1",
        url=f"{hooks.url}/to?t={{{{ job.label }}}}",
        method="PUT",
        headers=[{"name": "X-Job", "value": "{{ job.id }}"}],
        body='{"title": {{ stringify(event.title) }}, "gone": "{{ job.nothing }}"}',
    )
    await stack.define(label="a b&c", actions=[action("web_hook", web_hook="w1")])
    async with stack.scheduler():
        job = await stack.run()
        [done] = await results(stack, job)
    [request] = hooks.received
    assert (request.method, request.target) == ("PUT", "/to?t=a%20b%26c")
    assert request.headers["x-job"] == job
    assert request.json == {"title": "e1", "gone": "N/A"}
    assert done.code == 0


async def test_a_hook_that_nobody_answers_is_tried_again(stack: Stack, hooks: HookReceiver) -> None:
    await record(stack, "webhook", "w1", url=hooks.url, method="POST", retries=2)
    await stack.define(actions=[action("web_hook", web_hook="w1")])
    hooks.answers = [None, None, 204]
    async with stack.scheduler():
        [done] = await results(stack, await stack.run())
    assert (done.code, done.http_status) == (0, 204)
    assert len({request.headers["idempotency-key"] for request in hooks.received}) == 1


@pytest.mark.parametrize("fields", [{"fail_on_status": True}, {"enabled": False}, {"url": "x:y"}])
async def test_a_failed_hook_changes_nothing_about_the_job(
    stack: Stack, hooks: HookReceiver, fields: Json
) -> None:
    await record(stack, "webhook", "w1", **({"url": hooks.url, "method": "POST"} | fields))
    await stack.define(actions=[action("web_hook", web_hook="w1")])
    hooks.answers = [404]
    async with stack.scheduler():
        job = await stack.run()
        [done] = await results(stack, job)
        [end] = await stack.ended(job)
    assert done.code == "web_hook"
    assert end.code == 0


async def test_a_hook_under_way_at_a_crash_is_repeated_with_the_same_key(
    stack: Stack, hooks: HookReceiver, nats_server: Any
) -> None:
    hooks.held.clear()
    await stack.define(actions=[action("web_hook", url=hooks.url)])
    async with crashing_scheduler(stack, nats_server.url):
        job = await stack.run()
        await hooks.got(1)
    hooks.held.set()
    async with stack.scheduler():
        [done] = await results(stack, job)
    assert done.code == 0
    keys = [request.headers["idempotency-key"] for request in hooks.received]
    assert keys == [f"{job}:end:0"] * 2


async def test_a_job_that_is_a_web_hook_is_told_its_result_though_the_scheduler_dies(
    stack: Stack, hooks: HookReceiver, nats_server: Any
) -> None:
    """Given a runner that asks again: each scheduler fires once, with the same key."""
    hooks.held.clear()
    await stack.define(plugin="hookplug", params={"web_hook": hooks.url})
    stack.runner.hold = True
    async with crashing_scheduler(stack, nats_server.url):
        job = await stack.run()
        await stack.book.until("its order", lambda: stack.book.of(f.JobAssigned, job))
        [order] = stack.book.of(f.JobAssigned, job)
        assert isinstance(order.fact, f.JobAssigned)
        asked: Json = {"job": job, "order": order.sequence, "boot": order.fact.boot}
        subject = f"live.launch.{order.fact.server}"

        async def hear() -> Json:
            with contextlib.suppress(LedgerUnavailable):
                return await live.ask(
                    stack.ledger, subject, asked | {"hook": True, "patient": True}, 5.0
                )
            return {"pending": True}

        assert await asyncio.gather(hear(), hear()) == [{"pending": True}] * 2
        assert len(hooks.received) == 1
    hooks.held.set()
    async with stack.scheduler(), asyncio.timeout(20):
        while "code" not in (answer := await hear()):  # noqa: ASYNC110 - as runners do
            await asyncio.sleep(0.05)
    assert answer["code"] == 0
    assert len({request.headers["idempotency-key"] for request in hooks.received}) == 1
    assert len(hooks.received) == 2


# --- emails


async def test_an_email_shows_the_result_the_log_and_where_to_look(
    stack: Stack, mails: MailServer
) -> None:
    lines = b"".join(b"line %d <b>\n" % number for number in range(100))
    await stack.define(actions=[action("email", "error", users=["joe"], email="a@example.org")])
    user = {"at": time.time(), "actor": WHO, "type": "user", "id": "joe"}
    joe = f.from_plain(f.AccessCreated, user | {"record": {"email": "joe@example.org"}})
    await stack.ledger.append(joe, id="joe")
    stack.runner.hold = True
    async with stack.scheduler():
        job = await stack.run()
        await stack.book.until("the start", lambda: stack.book.of(f.JobStarted, job))
        log = await write_chunks(stack.ledger, f"chunks.s1.{job}", [lines])
        await stack.runner.finish(job, code=3, log=log, description="It broke")
        [done] = await results(stack, job)
    assert done.code == 0
    [(recipients, mail)] = mails.mails
    assert sorted(recipients) == ["a@example.org", "joe@example.org"]
    assert mail["Subject"] == "Jobledger Job Failed: e1"
    assert mail["Message-ID"] == f"<{job}.end.0@example.org>"
    text = mail.get_body(("plain",)).get_content()  # type: ignore[union-attr]
    assert "It broke" in text
    assert "line 99" in text
    assert "line 50 " in text
    assert "line 49 " not in text
    assert f"http://jobs.example.org/api/app/get_job/v1?id={job}" in text
    html = mail.get_body(("html",)).get_content()  # type: ignore[union-attr]
    assert "line 99 &lt;b&gt;" in html


async def test_an_email_may_bring_its_own_text(stack: Stack, mails: MailServer) -> None:
    body = "<!-- Subject: {{ job.id }} is {{ job.code }} -->\n**Hello** {{ job.nothing }}"
    await stack.define(actions=[action("email", users=[], email="a@example.org", body=body)])
    async with stack.scheduler():
        job = await stack.run()
        await results(stack, job)
    [(_, mail)] = mails.mails
    assert mail["Subject"] == f"{job} is 0"
    assert mail.get_body(("plain",)).get_content().strip() == "**Hello** n/a"  # type: ignore[union-attr]
    assert "<strong>Hello</strong>" in mail.get_body(("html",)).get_content()  # type: ignore[union-attr]


async def test_an_email_that_one_of_its_recipients_does_not_get_says_so(
    stack: Stack, mails: MailServer
) -> None:
    """Given a server that takes it for the others, then those have it, and the action failed."""
    mails.refused.add("b@example.org")
    await stack.define(actions=[action("email", users=[], email="a@example.org, b@example.org")])
    async with stack.scheduler():
        [done] = await results(stack, await stack.run())
    assert done.code == "email"
    assert done.description == ("Email was not taken for b@example.org (550 nobody of this name)")
    assert [recipients for recipients, _ in mails.mails] == [["a@example.org"]]


async def test_a_refused_email_is_the_result_of_its_action(stack: Stack, mails: MailServer) -> None:
    mails.refused.add("a@example.org")
    await stack.define(actions=[action("email", users=[], email="a@example.org")])
    async with stack.scheduler():
        [done] = await results(stack, await stack.run())
    assert done.code == "email"
    assert "nobody of this name" in done.description


# --- plugins


async def test_an_action_plugin_gets_the_job_and_answers(stack: Stack) -> None:
    script = 'read -r line; printf "%s\\n" "$line" | grep -q "\\"id\\": \\"j0001\\"" || exit 9\n'
    script += 'echo noise; printf \'{"xy":1,"code":0,"description":"%s %s"}\' '
    script += '"$JOB_ACTION_KEY" "$who"\n'
    await record(stack, "plugin", "p1", type="action", command="/bin/sh", script=script)
    await stack.define(actions=[action("plugin", plugin_id="p1", params={"who": "joe"})])
    async with stack.scheduler():
        job = await stack.run()
        [done] = await results(stack, job)
    assert (done.code, done.description) == (0, f"{job}:end:0 joe")


async def test_a_plugin_that_does_not_end_is_ended(stack: Stack) -> None:
    await record(stack, "plugin", "p1", type="action", command="sleep 600", timeout=1)
    await stack.define(actions=[action("plugin", plugin_id="p1")])
    async with stack.scheduler():
        [done] = await results(stack, await stack.run())
    assert (done.code, done.description) == (
        "plugin",
        "The plugin did not end within 1 seconds.",
    )


@pytest.mark.parametrize("left", ["sleep 600", "setsid sleep 5"])
async def test_what_a_plugin_leaves_running_does_not_hold_it(stack: Stack, left: str) -> None:
    """Given a process that has its output open still, then the plugin ended when it ended."""
    command = f"{left} & echo here; exit 0"
    await record(stack, "plugin", "p1", type="action", command=command, timeout=4)
    await stack.define(actions=[action("plugin", plugin_id="p1")])
    async with stack.scheduler():
        [done] = await results(stack, await stack.run())
    assert (done.code, done.details) == (0, "**Output:**\n\n```\nhere\n```")


@pytest.mark.parametrize(("idempotent", "code"), [(False, "unknown"), (True, 0)])
async def test_after_a_crash_only_an_idempotent_plugin_runs_again(
    stack: Stack, nats_server: Any, tmp_path: Path, idempotent: bool, code: int | str
) -> None:
    fifo, ran = tmp_path / "began", tmp_path / "ran"
    command = f"echo x >> {ran}; test -e {fifo} || {{ touch {fifo}; sleep 600; }}"
    await record(stack, "plugin", "p1", type="action", command=command, idempotent=idempotent)
    await stack.define(actions=[action("plugin", plugin_id="p1")])
    async with crashing_scheduler(stack, nats_server.url):
        job = await stack.run()
        async with asyncio.timeout(20):
            while not fifo.exists():  # noqa: ASYNC110 - a file gives no signal
                await asyncio.sleep(0.01)
    async with stack.scheduler():
        [done] = await results(stack, job)
    assert done.code == code
    assert len(ran.read_text().splitlines()) == (2 if idempotent else 1)


@pytest.mark.parametrize(
    ("status", "out", "code"),
    [
        (0, "", 0),
        (0, "done\n", 0),
        (0, '{"xy":1,"code":7,"description":"no"}', 7),
        (0, '{"xy":1,"code":"Not Good"}', "not_good"),
        (0, "{broken}", "plugin"),
        (0, '{"a":1}', 0),
        (1, '{"xy":1,"code":0}', "plugin"),
        (-9, "", "plugin"),
    ],
)
def test_the_last_line_of_a_plugin_is_its_answer(status: int, out: str, code: int | str) -> None:
    assert outcome_of(status, out, "").code == code


# --- launching, changing the event


async def test_a_job_launches_the_next_with_its_output(stack: Stack) -> None:
    await stack.define("e2", params={}, fields=[])
    await stack.define(actions=[action("run_event", "success", event_id="e2")])
    stack.runner.hold = True
    async with stack.scheduler():
        job = await stack.run()
        await stack.book.until("the start", lambda: stack.book.of(f.JobStarted, job))
        stack.runner.hold = False
        await stack.runner.finish(job, report={"data": {"a": 1}, "files": [{"id": "f1"}]})
        [done] = await results(stack, job)
        [end] = await stack.ended(job)
        [child] = end.jobs
        await stack.ended(child["id"])
    [recorded] = stack.book.of(f.JobRequested, child["id"])
    request = recorded.fact
    assert isinstance(request, f.JobRequested)
    assert request.input == {"data": {"a": 1}, "files": [{"id": "f1"}]}
    assert request.parent is not None
    assert (request.parent["job"], request.parent["code"]) == (job, 0)
    assert done.code == 0


async def test_an_event_that_cannot_be_launched_is_an_error_of_the_action(stack: Stack) -> None:
    await stack.define("e2", triggers=[])
    await stack.define(actions=[action("run_event", event_id="e2")])
    async with stack.scheduler():
        [done] = await results(stack, await stack.run())
    assert done.code == "run_event"
    assert "manual" in done.description


async def test_a_daily_limit_refuses_the_launch_of_an_action(stack: Stack) -> None:
    limit = {"type": "day", "enabled": True, "condition": "complete", "amount": 1}
    await stack.define("e2", limits=[limit])
    await stack.define(actions=[action("run_event", event_id="e2")])
    async with stack.scheduler():
        [first] = await results(stack, await stack.run())
        await stack.book.until("its end", lambda: len(stack.book.of(f.JobCompleted)) == 2)
        [second] = await results(stack, await stack.run())
    assert first.code == 0
    text = "Maximum daily 'complete' count of 1 has been reached for event: e2"
    assert (second.code, second.description) == ("run_event", text)


async def test_the_jobs_per_minute_brake_holds_for_launches_of_actions(stack: Stack) -> None:
    """Given a brake of one job, when a job's action launches another, then the action fails."""
    stack.settings = replace(stack.settings, max_jobs_per_min=1)
    await stack.define("e2")
    await stack.define(actions=[action("run_event", event_id="e2")])
    await stack.run(until=time.time() + 60, wait="start_delay")  # the next minute is taken as well
    async with stack.scheduler():
        [done] = await results(stack, await stack.run())
    text = "Global jobs per minute limit has been reached (1/min)"
    assert (done.code, done.description) == ("run_event", text)


def refusals(stack: Stack) -> list[f.ActionEnded]:
    ended: list[Any] = [recorded.fact for recorded in stack.book.of(f.ActionEnded)]
    return [fact for fact in ended if "chain" in fact.description]


async def test_events_that_launch_each_other_come_to_an_end(stack: Stack) -> None:
    await stack.define(actions=[action("run_event", event_id="e1")])
    async with stack.scheduler():
        await stack.run(parent={"job": "j0", "event": "e1", "chain_depth": 98})
        await stack.book.until("the refusal", lambda: refusals(stack))
    assert len(stack.book.of(f.JobRequested)) == 3


async def test_an_event_is_disabled_at_the_end_on_top_of_other_changes(stack: Stack) -> None:
    await stack.define(actions=[action("disable", "start"), action("tag", "start", tags=["t1"])])
    async with stack.scheduler():
        await results(stack, await stack.run())
    [recorded] = stack.book.of(f.EventUpdated)
    update = recorded.fact
    assert isinstance(update, f.EventUpdated)
    assert update.definition["enabled"] is False
    assert update.changed == ["enabled"]


async def test_an_event_may_delete_itself(stack: Stack) -> None:
    await stack.define(actions=[action("delete")])
    async with stack.scheduler():
        job = await stack.run()
        [end] = await stack.ended(job)
    assert end.code == 0
    assert len(stack.book.of(f.EventDeleted)) == 1


# --- suspending


async def until_suspended(stack: Stack, job: str) -> None:
    await stack.book.until("the suspension", lambda: stack.book.of(f.JobSuspended, job))


async def test_a_suspended_start_survives_a_crash_and_goes_on_with_new_params(
    stack: Stack, hooks: HookReceiver, nats_server: Any
) -> None:
    await record(stack, "webhook", "w1", url=hooks.url, method="POST")
    suspend = action("suspend", "start", users=[], web_hook="w1")
    await stack.define(actions=[suspend], limits=[{"type": "job", "enabled": True, "amount": 1}])
    async with crashing_scheduler(stack, nats_server.url):
        job = await stack.run()
        await until_suspended(stack, job)
        [told] = await hooks.got(1)
    async with stack.scheduler():
        other = await stack.run()
        [refused] = await stack.ended(other)
        await ask(stack, f.JobResumeRequested, job, params={"script": "exit 3"})
        [end] = await stack.ended(job)
    assert told.json["action"] == "job_suspended"
    assert len(hooks.received) == 1, "people are told once"
    assert refused.code == "abort", "the suspended job holds the only slot"
    assert end.code == 0
    [assigned] = stack.book.of(f.JobAssigned, job)
    assert isinstance(assigned.fact, f.JobAssigned)
    assert (assigned.fact.launch or {})["changes"]["params"]["script"] == "exit 3"


async def test_aborting_a_suspended_start_fires_the_actions_of_an_abort(
    stack: Stack, hooks: HookReceiver
) -> None:
    await stack.define(
        actions=[action("suspend", "start"), action("web_hook", "abort", url=hooks.url)]
    )
    async with stack.scheduler():
        job = await stack.run()
        await until_suspended(stack, job)
        await ask(stack, f.JobAbortRequested, job, reason="Enough")
        hook, suspend = await results(stack, job)
        [end] = await stack.ended(job)
    assert (end.code, end.description) == ("abort", "Enough")
    assert stack.book.of(f.JobAssigned, job) == []
    assert (hook.code, suspend.code) == (0, "abort")
    assert hooks.received[0].json["code"] == "abort"


async def test_a_job_suspended_at_its_end_is_final_only_when_resumed(stack: Stack) -> None:
    await stack.define(actions=[action("suspend", "success"), action("tag", tags=["t1"])])
    async with stack.scheduler():
        job = await stack.run()
        await until_suspended(stack, job)
        assert stack.book.of(f.JobCompleted, job) == []
        await ask(stack, f.JobResumeRequested, job)
        [end] = await stack.ended(job)
    assert end.code == 0


async def test_a_suspension_that_lasts_too_long_aborts(stack: Stack) -> None:
    await stack.define(actions=[action("suspend", "start", timeout=0.2, on_timeout="abort")])
    async with stack.scheduler():
        [end] = await stack.ended(await stack.run())
    assert (end.code, end.description) == ("abort", "The job was suspended for too long.")


# --- limits and retries


async def test_a_time_limit_tells_aborts_and_the_retry_has_the_same_input(
    stack: Stack, hooks: HookReceiver
) -> None:
    await record(stack, "webhook", "w1", url=hooks.url, method="POST")
    limits = [
        {"type": "time", "enabled": True, "duration": 0.5, "abort": True, "web_hook": "w1"},
        {"type": "retry", "enabled": True, "amount": 1},
    ]
    await stack.define(limits=limits, actions=[action("web_hook", "abort", url=hooks.url)])
    stack.runner.hold = True
    given = {"data": {"a": 1}, "files": []}
    async with stack.scheduler():
        job = await stack.run(input=given)
        [first] = await stack.ended(job)
        assert first.retry is not None
        second = first.retry.job
        [last] = await stack.ended(second)
    assert first.code == last.code == "abort"
    assert "0.5 seconds" in first.description
    assert last.retry is None
    [recorded] = stack.book.of(f.JobRequested, second)
    assert isinstance(recorded.fact, f.JobRequested)
    assert recorded.fact.input == given
    assert [r.json["action"] for r in hooks.received] == ["job_limited", "job_limited", "job_error"]
    assert len(stack.book.of(f.JobChanged)) == 2, "each attempt's limit fires once"


async def test_a_job_that_uses_too_much_for_too_long_is_tagged(stack: Stack) -> None:
    await record(stack, "tag", "hungry")
    limits = [{"type": "cpu", "enabled": True, "amount": 150, "duration": 1, "tags": ["hungry"]}]
    await stack.define(limits=limits)
    stack.runner.hold = True
    stack.runner.telemetry = {"cpu": {"current": 180.0}}
    async with stack.scheduler():
        job = await stack.run()
        await stack.book.until("the limit", lambda: stack.book.of(f.JobChanged, job))
        await stack.runner.finish(job)
        [end] = await stack.ended(job)
    assert end.code == 0
    assert "hungry" in end.tags


# --- what a process or an administrator changes


@pytest.mark.parametrize(("allowed", "notes"), [(True, "new"), (False, None)])
async def test_a_process_changes_its_event_only_if_its_plugin_may(
    stack: Stack, allowed: bool, notes: str | None
) -> None:
    await record(stack, "plugin", "p1", type="event", command="x", may_update_event=allowed)
    await stack.define(plugin="p1")
    stack.runner.hold = True
    update = {"notes": "new", "targets": ["s9"]}
    async with stack.scheduler() as scheduler:
        job = await stack.run()
        await stack.book.until("the start", lambda: stack.book.of(f.JobStarted, job))
        await stack.runner.finish(job, report={"update_event": update})
        [done] = await results(stack, job)
        event = scheduler.definitions.event("e1")
    assert event is not None
    assert (event.get("notes"), event["targets"]) == (notes, ["main"])
    assert done.code == (0 if allowed else "update_event")


async def test_a_live_job_is_changed_by_an_administrator(stack: Stack) -> None:
    await stack.define()
    stack.runner.hold = True
    async with stack.scheduler():
        job = await stack.run()
        await stack.book.until("the start", lambda: stack.book.of(f.JobStarted, job))
        await ask(stack, f.JobUpdateRequested, job, changes={"label": "seen"})
        await stack.book.until("the answer", lambda: stack.book.of(f.JobChanged, job))
        await stack.runner.finish(job)
        await stack.ended(job)
    [recorded] = stack.book.of(f.JobChanged, job)
    assert isinstance(recorded.fact, f.JobChanged)
    assert recorded.fact.changes == {"label": "seen"}


async def test_a_label_set_at_the_end_shows_how_the_job_ended(stack: Stack) -> None:
    text = "{{ event_title }} {{ state }} {{ code }} {{ description }} {{ elapsed > 0 }}"
    text += " {{ data.n }} {{ server.hostname }} {{ server.id }}"
    await stack.define(title="Nightly", actions=[action("label", label=text)])
    stack.runner.hold = True
    async with stack.scheduler():
        job = await stack.run()
        await stack.book.until("the start", lambda: stack.book.of(f.JobStarted, job))
        report = {"data": {"n": 42}, "label": "by the process"}
        await stack.runner.finish(job, code=3, description="No room", report=report)
        [done] = await results(stack, job)
    label = "Nightly complete 3 No room true 42 host.one s1"
    assert (done.description, done.changes) == (f"Label set: {label}", {"label": label})


async def test_a_running_process_has_something_done_at_once(
    stack: Stack, hooks: HookReceiver
) -> None:
    await stack.define()
    stack.runner.hold = True
    push = action("web_hook", "instant", url=hooks.url)
    stack.runner.telemetry = {"instant": [[0, push]]}
    async with stack.scheduler():
        job = await stack.run()
        await hooks.got(1)
        await stack.runner.finish(job, report={"push": {"actions": [push]}})
        await stack.ended(job)
    assert len(hooks.received) == 1
