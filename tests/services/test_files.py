"""Uploads and files over HTTP: what goes in, who may read it back, and what is never shown."""

import json
from typing import Any

import httpx
import pytest

from domain.facts import (
    Actor,
    Blob,
    JobAssigned,
    JobCompleted,
    JobFinished,
    JobRequested,
    JobUpdated,
    MadeOf,
    to_plain,
)
from services.ledger import reading
from services.ledger.chunks import CHUNK, read_note, write_chunks
from services.ledger.connection import Ledger
from services.ledger.raw import remove
from tests.services.gateway_kit import EVENT, NOW, Api, over_http, running_gateway

SYSTEM = Actor(type="system", id="test")
TEXT = bytes(range(256)) * 4000  # 1,024,000 bytes: two chunks


@pytest.fixture
async def api(ledger: Ledger, tmp_path: Any) -> Any:
    async with running_gateway(ledger, tmp_path) as running:
        yield running


async def upload(api: Api, name: str = "report.bin", content: bytes = TEXT) -> dict[str, Any]:
    reply = await api.client.post(
        "/api/app/upload_job_input_files/v1", files={"file1": (name, content)}
    )
    assert reply.json()["code"] == 0, reply.text
    file: dict[str, Any] = reply.json()["files"][0]
    return file


async def test_an_uploaded_file_is_read_back_by_its_path_without_credentials(api: Api) -> None:
    file = await upload(api)
    assert file["size"] == len(TEXT)
    assert "blob" not in file
    del api.client.headers["x-api-key"]
    for path in (f"/{file['path']}", f"/api/app/file/v1?path={file['path']}"):
        reply = await api.client.get(path)
        assert (reply.status_code, reply.content) == (200, TEXT)
        assert reply.headers["content-length"] == str(len(TEXT))
        head = await api.client.head(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == str(len(TEXT))


@pytest.mark.parametrize(
    ("asked", "status", "start", "end"),
    [
        ("bytes=0-9", 206, 0, 10),
        ("bytes=524280-524300", 206, 524280, 524301),
        ("bytes=1023990-", 206, 1023990, 1024000),
        ("bytes=-5", 206, 1023995, 1024000),
        ("bytes=1000000-9999999", 206, 1000000, 1024000),
        ("bytes=1024000-", 416, 0, 0),
        ("bytes=-0", 416, 0, 0),
        ("bytes=9-3", 200, 0, 1024000),
        ("bytes=0-1,5-6", 200, 0, 1024000),
        ("lines=1-2", 200, 0, 1024000),
        pytest.param("bytes=0-" + "9" * 5000, 200, 0, 1024000, id="more digits than a number has"),
    ],
)
async def test_ranges(api: Api, asked: str, status: int, start: int, end: int) -> None:
    file = await upload(api)
    reply = await api.client.get(f"/{file['path']}", headers={"Range": asked})
    assert reply.status_code == status
    assert reply.content == TEXT[start:end]
    if status == 206:
        assert reply.headers["content-range"] == f"bytes {start}-{end - 1}/{len(TEXT)}"
    if status == 416:
        assert reply.headers["content-range"] == f"bytes */{len(TEXT)}"


async def test_what_the_client_has_already_is_not_sent_again(api: Api) -> None:
    path = "/" + (await upload(api))["path"]
    first = await api.client.get(path)
    tag, date = first.headers["etag"], first.headers["last-modified"]
    for headers in ({"If-None-Match": tag}, {"If-Modified-Since": date}):
        reply = await api.client.get(path, headers=headers)
        assert (reply.status_code, reply.content) == (304, b"")
    changed = await api.client.get(path, headers={"If-None-Match": '"other"'})
    assert changed.status_code == 200
    odd = {"If-Modified-Since": "1 Jan 2000 00:00:00 +99999999999999999999"}
    assert (await api.client.get(path, headers=odd)).status_code == 200
    stale = await api.client.get(path, headers={"If-Range": '"other"', "Range": "bytes=0-1"})
    assert (stale.status_code, len(stale.content)) == (200, len(TEXT))


async def test_pages_are_never_shown_in_the_browser(api: Api) -> None:
    for name in ("page.html", "drawing.svg", "data.xhtml"):
        reply = await api.client.get("/" + (await upload(api, name, b"<b>"))["path"])
        assert reply.headers["content-disposition"].startswith("attachment")
        assert reply.headers["x-content-type-options"] == "nosniff"
    path = "/" + (await upload(api, "notes.txt", b"hello"))["path"]
    shown = await api.client.get(path)
    assert shown.headers["content-disposition"].startswith("inline")
    assert shown.headers["content-type"] == "text/plain; charset=utf-8"
    saved = await api.client.get(path, params={"download": 'my "own".txt'})
    assert saved.headers["content-disposition"].startswith('attachment; filename="my _own_.txt"')


async def test_no_other_path_opens_a_file(api: Api) -> None:
    path = (await upload(api))["path"]
    kind, id, secret, name = path.split("/")[1:]
    for wrong in (
        f"files/{kind}/{id}/{secret[:-1]}x/{name}",
        f"files/{kind}/{id}/{name}",
        f"files/{kind}/{id}/{secret}/other.bin",
        "files/uploads/../../etc/passwd",
        "files/jobs/jnone/abc/report.bin",
        "files/",
    ):
        for shown in (f"/{wrong}", f"/api/app/file/v1?path={wrong}"):
            reply = await api.client.get(shown)
            assert reply.status_code == 404, shown
            assert "passwd" not in reply.text


async def test_a_job_gets_the_files_whose_paths_were_given(api: Api) -> None:
    await api.ok("create_event", EVENT)
    file = await upload(api)
    job = (await api.ok("run_event", {"id": "backup", "input": {"files": [file]}}))["id"]
    request = api.gateway.views.active.jobs[job].request.input
    assert request is not None
    assert request["files"][0]["blob"]["size"] == len(TEXT)
    shown = (await api.ok("get_job", {"id": job}))["job"]
    assert shown["input"]["files"] == [file]


async def test_a_client_cannot_say_itself_where_bytes_are(api: Api, ledger: Ledger) -> None:
    await api.ok("create_event", EVENT)
    secret = await write_chunks(ledger, "chunks.s1.jother", [b"another job's log"])
    forged = {"id": "f1", "filename": "x", "path": "files/x", "blob": to_plain(secret)}
    job = (await api.ok("run_event", {"id": "backup", "input": {"files": [forged]}}))["id"]
    request = api.gateway.views.active.jobs[job].request.input
    assert request is not None
    assert "blob" not in request["files"][0]


async def test_files_of_a_refused_launch_are_deleted(api: Api, ledger: Ledger) -> None:
    reply = await api.client.post(
        "/api/app/run_event/v1", data={"id": "no_such_event"}, files={"file": ("a.txt", b"hello")}
    )
    assert reply.json()["code"] == "event"
    info = await ledger.api("STREAM.INFO.CHUNKS")
    assert info["state"]["messages"] == 0


async def test_of_an_upload_that_breaks_off_nothing_is_left(api: Api, ledger: Ledger) -> None:
    """Given a form that ends within a file, when it is sent, then its bytes are not kept."""
    head = b'--x\r\ncontent-disposition: form-data; name="f"; filename="f.bin"\r\n\r\n'
    reply = await api.client.post(
        "/api/app/upload_job_input_files/v1",
        content=head + TEXT,
        headers={"content-type": "multipart/form-data; boundary=x"},
    )
    assert reply.json()["code"] == "api"
    info = await ledger.api("STREAM.INFO.CHUNKS")
    assert info["state"]["last_seq"] >= 1
    assert info["state"]["messages"] == 0


async def test_uploads_expire_after_thirty_days(api: Api, ledger: Ledger) -> None:
    file = await upload(api)
    subject = f"chunks.upload.{file['id']}"
    stored = await reading.find(ledger, {"seq": 1, "next_by_subj": subject}, "CHUNKS")
    assert stored is not None
    assert stored.headers["Nats-TTL"] == f"{30 * 86400}s"
    assert await read_note(ledger, subject) is not None


async def test_stored_bytes_are_never_taken_for_the_record_of_a_file(ledger: Ledger) -> None:
    await write_chunks(ledger, "chunks.upload.f1", [b'{"path":"files/uploads/f1/x/y"}'])
    assert await read_note(ledger, "chunks.upload.f1") is None


async def test_upload_files_gives_urls(api: Api) -> None:
    reply = await api.client.post(
        "/api/app/upload_files/v1",
        files=[("a", ("one.txt", b"1")), ("b", ("two.txt", b"22"))],
    )
    urls = reply.json()["urls"]
    assert [(await api.client.get(url)).content for url in urls] == [b"1", b"22"]
    nothing = await api.call("upload_files/v1", {})
    assert nothing.json()["code"] == "api"


async def test_the_files_of_a_finished_job_are_read_and_deleted(api: Api, ledger: Ledger) -> None:
    await api.ok("create_event", EVENT)
    job = (await api.ok("run_event", {"id": "backup"}))["id"]
    blob = await write_chunks(ledger, f"chunks.s1.{job}", [b"result"])
    path = f"files/jobs/{job}/{'x' * 43}/out.txt"
    file = {"id": "f1", "date": int(NOW), "filename": "out.txt", "path": path, "size": 6}
    await finish(api, job, file | {"blob": to_plain(blob)})

    shown = (await api.ok("get_job", {"id": job}))["job"]
    assert shown["files"] == [file]
    rows = (await api.ok("search_jobs", {"verbose": True, "limit": 5}))["rows"]
    assert rows[0]["files"] == [file]
    assert (await api.client.get(f"/{path}")).content == b"result"

    await api.ok("delete_job_file", {"id": job, "path": path})
    assert (await api.client.get(f"/{path}")).status_code == 404
    assert (await api.ok("get_job", {"id": job}))["job"]["files"] == []
    [row] = (await api.ok("search_activity", {"query": "action:job_delete_file", "limit": 9}))[
        "rows"
    ]
    assert (row["action"], row["description"], row["path"]) == ("job_delete_file", path, path)


@pytest.mark.parametrize(
    "files",
    ["x", 5, [1], [{}], [{"path": 1}], [{"path": "PATH"}], [{"path": "PATH", "blob": "x"}]],
)
async def test_files_that_an_admin_wrote_over_are_no_files(api: Api, files: Any) -> None:
    await api.ok("create_event", EVENT)
    job = (await api.ok("run_event", {"id": "backup"}))["id"]
    path = f"files/jobs/{job}/{'x' * 43}/out.txt"
    await finish(api, job, {"path": path})
    written = json.loads(json.dumps(files).replace("PATH", path))

    await api.ok("update_job", {"id": job, "files": written})

    assert (await api.client.get(f"/{path}")).status_code == 404
    assert (await api.ok("get_job", {"id": job}))["job"]["id"] == job
    known = path in json.dumps(written)
    assert await api.code("delete_job_file", {"id": job, "path": path}) == (0 if known else "job")


async def test_a_file_without_a_date_is_read(api: Api, ledger: Ledger) -> None:
    await api.ok("create_event", EVENT)
    job = (await api.ok("run_event", {"id": "backup"}))["id"]
    blob = await write_chunks(ledger, f"chunks.s1.{job}", [b"result"])
    path = f"files/jobs/{job}/{'x' * 43}/out.txt"
    for date in ({}, {"date": "yesterday"}, {"date": 1e300}):
        await finish_or_update(api, job, {"path": path, "blob": to_plain(blob)} | date)
        assert (await api.client.get(f"/{path}")).content == b"result"


async def test_a_file_in_a_long_list_is_deleted(api: Api, ledger: Ledger) -> None:
    """Given a job whose files are kept in CHUNKS, when one is deleted, then it is gone."""
    await api.ok("create_event", EVENT)
    job = (await api.ok("run_event", {"id": "backup"}))["id"]
    paths = [f"files/jobs/{job}/{letter * 43}/out.txt" for letter in "xy"]
    files = json.dumps([{"path": path} for path in paths]).encode()
    large = await write_chunks(ledger, f"chunks.s1.{job}", [files])
    await finish(api, job, {}, large={"files": large})
    shown = (await api.ok("get_job", {"id": job}))["job"]["files"]
    assert [file["path"] for file in shown] == paths

    await api.ok("delete_job_file", {"id": job, "path": paths[0]})

    shown = (await api.ok("get_job", {"id": job}))["job"]["files"]
    assert [file["path"] for file in shown] == paths[1:]


@pytest.mark.parametrize("odd", ["x", 5, {"data": "x"}, {"sequences": 1}])
async def test_a_record_with_odd_places_of_bytes_is_read_without_them(api: Api, odd: Any) -> None:
    await api.ok("create_event", EVENT)
    job = (await api.ok("run_event", {"id": "backup"}))["id"]
    await finish(api, job, {})
    changes = {"_log": odd, "_large": odd}
    await api.record(JobUpdated(at=NOW, actor=SYSTEM, event="backup", job=job, changes=changes))

    assert (await api.ok("get_job", {"id": job}))["job"]["id"] == job
    assert (await api.ok("get_jobs", {"ids": [job], "verbose": True}))["jobs"][0]["id"] == job
    assert (await api.client.get(f"/api/app/get_job_log/v1?id={job}")).status_code == 204
    assert await api.code("delete_job_file", {"id": job, "path": "files/x"}) == "job"


@pytest.mark.parametrize("live", [True, False])
@pytest.mark.parametrize(
    "odd",
    [
        {"category": [1]},
        {"category": {"a": 1}},
        {"targets": 5},
        {"targets": True},
        {"targets": [{}]},
        {"workflow": "x"},
        {"workflow": {"jobs": {"n": 5}}},
    ],
)
async def test_what_an_admin_wrote_into_a_job_breaks_nobodys_reads(
    api: Api, odd: Any, live: bool
) -> None:
    await api.ok("create_event", EVENT)
    limits = {"categories": ["general"], "groups": ["main"], "privileges": {"run_jobs": True}}
    key = (await api.ok("create_api_key", {"title": "Limited", **limits}))["plain_key"]
    job = (await api.ok("run_event", {"id": "backup"}))["id"]
    if not live:
        await finish(api, job, {})

    await api.ok("update_job", {"id": job} | odd)

    # A live job takes no targets that are none, a final record is as it was written.
    hidden = "category" in odd or ("targets" in odd and not live)
    for headers in ({}, {"x_api_key": key}):
        code = await api.code("get_job", {"id": job}, **headers)
        assert code == ("access" if headers and hidden else 0)
        for name in ("get_jobs", "get_active_jobs", "get_active_job_summary"):
            asked = {"ids": [job]} if name == "get_jobs" else {}
            assert await api.code(name, asked, **headers) == 0
    if not live:
        assert await api.code("delete_job", {"id": job}) == 0


async def test_a_log_whose_bytes_are_gone_is_not_found(api: Api, ledger: Ledger) -> None:
    job, blob, token = await job_with_log(api, ledger)
    await remove(ledger, blob.sequences[0], overwrite=True, stream="CHUNKS")

    reply = await api.client.get(f"/api/app/get_job_log/v1?id={job}")
    assert (reply.status_code, reply.json()["code"]) == (404, "notfound")
    for name in ("view_job_log", "download_job_log"):
        reply = await api.client.get(f"/api/app/{name}/v1?id={job}&t={token}")
        assert (reply.status_code, reply.headers["content-type"][:10]) == (404, "text/plain")


@pytest.mark.parametrize("encoding", ["gzip", "identity"])
async def test_a_log_that_misses_a_later_part_is_cut_off(
    api: Api, ledger: Ledger, encoding: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Given a log whose last part is gone, when it is read, then the reply never ends well."""
    job, blob, token = await job_with_log(api, ledger)
    await remove(ledger, blob.sequences[-1], overwrite=True, stream="CHUNKS")

    async with over_http(api) as (_, port), httpx.AsyncClient() as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get(
                f"http://127.0.0.1:{port}/api/app/view_job_log/v1?id={job}&t={token}",
                headers={"accept-encoding": encoding},
            )

    told = "".join(capsys.readouterr())
    assert "reply_cut_off" in told
    assert "Traceback" not in told


async def job_with_log(api: Api, ledger: Ledger) -> tuple[str, Blob, str]:
    await api.ok("create_event", EVENT)
    job = (await api.ok("run_event", {"id": "backup"}))["id"]
    blob = await write_chunks(ledger, f"chunks.s1.{job}", [bytes(6 * CHUNK)])
    await finish(api, job, {}, log=blob)
    return job, blob, (await api.ok("get_job", {"id": job}))["token"]


async def finish_or_update(api: Api, job: str, file: dict[str, Any]) -> None:
    if job in api.gateway.views.active.jobs:
        await finish(api, job, file)
    else:
        await api.ok("update_job", {"id": job, "files": [file]})


async def finish(
    api: Api,
    job: str,
    file: dict[str, Any],
    *,
    large: dict[str, Blob] | None = None,
    log: Blob | None = None,
) -> None:
    about = {"at": NOW, "actor": SYSTEM, "event": "backup", "job": job}
    run = about | {"server": "s1", "boot": "b1"}
    live = api.gateway.views.active.jobs[job].request
    assert isinstance(live, JobRequested)
    order = await api.record(JobAssigned(**run, attempt=1, made_of=live.made_of or MadeOf(event=1)))
    await api.record(
        JobFinished(
            **run,
            order=order.sequence,
            code=0,
            description="Fine",
            ended=NOW,
            report={"files": [file] if file else []},
            large=large or {},
            log=log,
        )
    )
    await api.record(JobCompleted(**about, code=0, description="Fine"))
