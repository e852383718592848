"""Erasing on a real ledger: api.md 4.7 and 3.5, design.md 8."""

import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec import structs

from domain import facts as f
from domain.defaults import default_facts
from domain.deletion import decide_delete_job
from services.ledger.chunks import write_chunks
from services.ledger.connection import Ledger
from services.ledger.erasing import erase, facts_of_job
from services.ledger.raw import raw_at
from services.scheduler import erasing
from tests.services.deletion_kit import (
    WHO,
    everything,
    found_in,
    gone,
    leading_scheduler,
    until,
    write_job,
)
from tests.services.gateway_kit import EVENT, Api, running_gateway

SECRET = "the_secret_word"


@pytest.fixture
async def api(ledger: Ledger, tmp_path: Path) -> AsyncIterator[Api]:
    async with running_gateway(ledger, tmp_path) as running:
        running.clock.now = time.time()
        await running.ok("create_event", EVENT)
        yield running


async def deletion_of(ledger: Ledger, job: str, sequences: list[int]) -> f.JobDeleted:
    raws = await facts_of_job(ledger, sequences, f"facts.job.backup.{job}")
    [deleted] = decide_delete_job(
        {"id": job, "event": "backup"}, raws, parent_is_live=False, now=time.time(), actor=WHO
    )
    return deleted


async def test_a_deletion_names_every_fact_of_the_job_and_no_other(ledger: Ledger) -> None:
    wanted = await write_job(ledger, "j1")
    other = await write_job(ledger, "j2")
    deleted = await deletion_of(ledger, "j1", [*wanted, *other])
    assert [sequence for sequence, _ in deleted.erased] == wanted


async def test_nothing_of_a_deleted_job_can_be_read_afterwards(
    api: Api, ledger: Ledger, tmp_path: Path
) -> None:
    sequences = await write_job(ledger, "j1", secret=SECRET)
    assert len(await found_in(ledger, SECRET)) >= 6
    async with leading_scheduler(ledger, tmp_path):
        assert await api.gateway.reached(sequences[-1])
        await api.ok("delete_job", {"id": "j1"})
        assert await api.code("get_job", {"id": "j1"}) == "notfound"
        await gone(ledger, sequences)
    assert await found_in(ledger, SECRET) == []
    assert (await api.ok("search_activity", {"query": "action:job_delete"}))["list"]["length"] == 1


async def test_an_interrupted_erasing_is_finished_by_the_next_leader(
    ledger: Ledger, tmp_path: Path
) -> None:
    sequences = await write_job(ledger, "j1", secret=SECRET)
    deleted = await deletion_of(ledger, "j1", sequences)
    await ledger.append(deleted, id="delete")
    half = structs.replace(deleted, erased=deleted.erased[:3])
    assert await erase(ledger, half) == 3
    async with leading_scheduler(ledger, tmp_path):
        await gone(ledger, sequences)
    assert await found_in(ledger, SECRET) == []
    assert await erase(ledger, deleted) == 0


@pytest.mark.parametrize("kept", [0, 1, 1000])
async def test_all_deletions_are_carried_out_whether_heard_or_read(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    monkeypatch.setattr(erasing, "_HEARD", kept)
    jobs = {job: await write_job(ledger, job) for job in ("j1", "j2", "j3", "j4")}
    for job in ("j1", "j2", "j3"):
        await ledger.append(await deletion_of(ledger, job, jobs[job]), id=f"delete-{job}")
    async with leading_scheduler(ledger, tmp_path):
        for job in ("j1", "j2", "j3"):
            await gone(ledger, jobs[job])
        await ledger.append(await deletion_of(ledger, "j4", jobs["j4"]), id="delete-j4")
        await gone(ledger, jobs["j4"])


async def test_a_fold_without_the_erased_facts_leaves_no_live_job(
    ledger: Ledger, tmp_path: Path
) -> None:
    """Only the end of the job is gone yet; the deletion says that it was over."""
    sequences = await write_job(ledger, "j1")
    deleted = await deletion_of(ledger, "j1", sequences)
    await erase(ledger, structs.replace(deleted, erased=deleted.erased[3:]))
    await ledger.append(deleted, id="delete")
    async with leading_scheduler(ledger, tmp_path) as scheduler:
        await gone(ledger, sequences)
        assert scheduler.jobs.jobs == {}
    kinds = [f.decode(raw.data).kind for raw in await everything(ledger)]
    assert "JobAssigned" not in kinds


async def test_a_deletion_cannot_remove_what_is_not_the_jobs(ledger: Ledger) -> None:
    sequences = await write_job(ledger, "j1")
    [other, *_] = await write_job(ledger, "j2")
    deleted = await deletion_of(ledger, "j1", sequences)
    stolen = (other, deleted.erased[0][1])
    wrong = (deleted.erased[0][0], "0" * 64)
    forged = structs.replace(deleted, erased=[wrong, stolen, *deleted.erased[1:]])
    assert await erase(ledger, forged) == len(sequences) - 1
    assert await raw_at(ledger, other) is not None
    assert await raw_at(ledger, sequences[0]) is not None


async def test_a_report_that_comes_after_the_deletion_goes_as_well(
    ledger: Ledger, tmp_path: Path
) -> None:
    sequences = await write_job(ledger, "j1", secret=SECRET)
    async with leading_scheduler(ledger, tmp_path):
        await ledger.append(await deletion_of(ledger, "j1", sequences), id="delete")
        await gone(ledger, sequences)
        log = await write_chunks(ledger, "chunks.s1.j1", [SECRET.encode()])
        late = f.JobFinished(
            at=time.time(), actor=WHO, server="s1", boot="boot1", event="backup", job="j1",
            order=sequences[1], code=1, description=SECRET, ended=time.time(), log=log,
        )  # fmt: skip
        sequence = await ledger.append(late, id="late")
        await gone(ledger, [sequence])
    assert await found_in(ledger, SECRET) == []


async def test_uploads_go_with_the_job_unless_a_retry_needs_them(ledger: Ledger) -> None:
    for upload in ("f1", "f2"):
        await write_chunks(ledger, f"chunks.upload.{upload}", [upload.encode()])
    await write_job(ledger, "j1", input={"files": [{"id": "f1", "blob": {}, "job": "j1"}]})
    asked = await write_job(ledger, "j2", input={"files": [{"id": "f2", "blob": {}, "job": "j2"}]})
    completed = f.JobCompleted(
        at=time.time(), actor=WHO, event="backup", job="j2", code=1, description="",
        retry=f.Follower(job="j3"),
    )  # fmt: skip
    asked.append(await ledger.append(completed, id="again"))
    for job, sequences in (("j1", range(1, 7)), ("j2", asked)):
        await erase(ledger, await deletion_of(ledger, job, list(sequences)))
    assert await found_in(ledger, "f1") == []
    assert len(await found_in(ledger, "f2")) == 1


async def test_a_deleted_job_takes_along_only_what_came_with_its_own_launch(
    api: Api, ledger: Ledger
) -> None:
    """A is given a file uploaded before and one of its own; B is given both, by their paths."""
    post = api.client.post
    part = {"f": ("a.txt", b"shared")}
    shared = (await post("/api/app/upload_job_input_files/v1", files=part)).json()["files"][0]
    fields = {"json": json.dumps({"id": "backup", "input": {"files": [shared]}})}
    sent = await post("/api/app/run_event/v1", data=fields, files={"f": ("b.txt", b"own")})
    first = sent.json()["id"]
    given = (await api.ok("get_job", {"id": first}))["job"]["input"]["files"]
    assert [file.get("job") for file in given] == [None, first]
    second = (await api.ok("run_event", {"id": "backup", "input": {"files": given}}))["id"]

    async def deleted(job: str) -> list[int]:
        live = api.gateway.views.active.jobs[job]
        await erase(ledger, await deletion_of(ledger, job, [live.sequence]))
        return [(await api.client.get(f"/{file['path']}")).status_code for file in given]

    assert await deleted(second) == [200, 200]
    assert await deleted(first) == [200, 404]


async def test_a_client_cannot_make_a_file_of_another_job_its_own(api: Api) -> None:
    part = {"f": ("a.txt", b"shared")}
    reply = await api.client.post("/api/app/upload_job_input_files/v1", files=part)
    forged = reply.json()["files"][0] | {"job": "jmine"}
    job = (await api.ok("run_event", {"id": "backup", "input": {"files": [forged]}}))["id"]
    request = api.gateway.views.active.jobs[job].request.input
    assert request is not None
    assert "job" not in request["files"][0]


async def test_deleting_an_event_with_its_jobs_erases_them_all_and_only_them(
    api: Api, ledger: Ledger, tmp_path: Path
) -> None:
    doomed = [s for n in range(120) for s in await write_job(ledger, f"j{n:03}", secret=SECRET)]
    kept = await write_job(ledger, "jother", event="other")
    async with leading_scheduler(ledger, tmp_path):
        assert await api.gateway.reached(kept[-1])
        await api.ok("delete_event", {"id": "backup", "delete_jobs": True})
        await gone(ledger, doomed)
        assert all([await raw_at(ledger, sequence) for sequence in kept])
    assert await found_in(ledger, SECRET) == []


async def test_a_successor_finishes_the_erasing_of_an_event(
    api: Api, ledger: Ledger, tmp_path: Path
) -> None:
    doomed = [s for n in range(150) for s in await write_job(ledger, f"j{n:03}", secret=SECRET)]
    assert await api.gateway.reached(doomed[-1])
    await api.ok("delete_event", {"id": "backup", "delete_jobs": True})
    async with leading_scheduler(ledger, tmp_path):
        await gone(ledger, doomed[:1])
    assert await raw_at(ledger, doomed[-1]) is not None
    async with leading_scheduler(ledger, tmp_path):
        await gone(ledger, doomed)
    assert await found_in(ledger, SECRET) == []


async def test_a_live_job_of_a_deleted_event_is_erased_once_it_is_over(
    ledger: Ledger, tmp_path: Path
) -> None:
    sequences = await write_job(ledger, "jdone")
    asked = f.JobRequested(
        at=time.time(), actor=WHO, event="backup", job="jlive", made_of=f.MadeOf(event=0),
        source="user", username="anna", now=time.time(), until=time.time() + 3600,
        wait="start_delay",
    )  # fmt: skip
    waiting = await ledger.append(asked, id="jlive")
    deleted = f.EventDeleted(at=time.time(), actor=WHO, event="backup", delete_jobs=True)
    await ledger.append(deleted, id="delete")
    async with leading_scheduler(ledger, tmp_path) as scheduler:
        await gone(ledger, sequences)
        assert await raw_at(ledger, waiting) is not None
        assert list(scheduler.jobs.jobs) == ["jlive"]
        over = f.JobCompleted(
            at=time.time(), actor=WHO, event="backup", job="jlive", code="abort", description=""
        )
        last = await ledger.append(over, id="over")
        await gone(ledger, [waiting, last])


async def test_jobs_of_an_event_made_anew_are_kept(
    api: Api, ledger: Ledger, tmp_path: Path
) -> None:
    doomed = await write_job(ledger, "jold")
    assert await api.gateway.reached(doomed[-1])
    await api.ok("delete_event", {"id": "backup", "delete_jobs": True})
    await api.ok("create_event", EVENT)
    kept = await write_job(ledger, "jnew")
    async with leading_scheduler(ledger, tmp_path):
        await gone(ledger, doomed)
        assert all([await raw_at(ledger, sequence) for sequence in kept])


async def test_old_jobs_are_erased_and_younger_ones_are_not(ledger: Ledger, tmp_path: Path) -> None:
    old = [s for n in range(3) for s in await write_job(ledger, f"jold{n}", secret=SECRET)]
    border = (await raw_at_time(ledger)) + 0.0005
    young = await write_job(ledger, "jyoung")
    async with leading_scheduler(ledger, tmp_path) as scheduler:
        await until("leadership", lambda: scheduler.upkeep.eraser.position)
        assert await scheduler.upkeep.eraser.retain_once(border) == 3
        await gone(ledger, old)
        assert all([await raw_at(ledger, sequence) for sequence in young])
        assert await scheduler.upkeep.eraser.retain_once(border) == 0
    assert await found_in(ledger, SECRET) == []


async def raw_at_time(ledger: Ledger) -> float:
    """When the newest fact was stored, in Unix seconds."""
    return (await everything(ledger))[-1].at


async def test_an_erased_fire_is_not_fired_again(ledger: Ledger, tmp_path: Path) -> None:
    """A catch-up event whose only job is gone goes on from where that job was."""
    for number, fact in enumerate(default_facts(time.time() - 7200, WHO)):
        await ledger.append(fact, id=f"default-{number}")
    created = f.EventCreated(
        at=time.time() - 7200, actor=WHO, event="backup",
        definition=EVENT | {
            "triggers": [
                {"type": "schedule", "enabled": True},
                {"type": "catchup", "enabled": True},
            ]
        },
        counters=f.Counters(cursor=int(time.time()) // 60 * 60 - 7200),
    )  # fmt: skip
    anchor = await ledger.append(created, id="event")
    due = float(int(time.time()) // 60 * 60 - 60)
    sequences = await write_job(
        ledger, "j1", source="scheduler",
        fire=f.FireKey(anchor=anchor, trigger=0, due=due), counters=f.Counters(cursor=int(due)),
    )  # fmt: skip
    deleted = await deletion_of(ledger, "j1", sequences)
    assert deleted.fire is not None
    await ledger.append(deleted, id="delete")
    await erase(ledger, deleted)
    async with leading_scheduler(ledger, tmp_path) as scheduler:
        await until("the fold", lambda: scheduler.follower.caught_up.is_set())
        assert scheduler.schedule.events["backup"].settled >= due
        cursor = scheduler.states.states["backup"].cursor
        assert cursor is not None
        assert cursor >= due


async def test_one_file_of_a_job_can_be_erased(api: Api, ledger: Ledger) -> None:
    sequences = await write_job(ledger, "j1")
    blob = await write_chunks(ledger, "chunks.s1.j1", [SECRET.encode()])
    files = [{"id": "f1", "path": "files/jobs/j1/a.txt", "blob": f.to_plain(blob)}]
    last = await ledger.append(
        f.JobUpdated(at=time.time(), actor=WHO, event="backup", job="j1", changes={"files": files}),
        id="files",
    )
    assert last > sequences[-1]
    assert await api.gateway.reached(last)
    assert await api.code("delete_job_file", {"id": "j1", "path": "files/no"}) == "job"
    await api.ok("delete_job_file", {"id": "j1", "path": files[0]["path"]})
    assert (await api.ok("get_job", {"id": "j1"}))["job"]["files"] == []
    assert await found_in(ledger, SECRET) == []
