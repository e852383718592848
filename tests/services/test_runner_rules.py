"""The pure rules around a job's process: environment, files, results."""

import os
from pathlib import Path

import pytest

from services.runner.accounts import Account
from services.runner.environment import LONGEST, Base, environment, inherited
from services.runner.files import distinct_names, output_files, read_file, safe_name
from services.runner.news import JobNews, fold_message
from services.runner.procfs import Process
from services.runner.results import result
from services.runner.spool import Mode
from services.runner.usage import Look, Usage

ACCOUNT = Account(1000, 1000, [1000], "ann", "/home/ann", "/bin/bash")


def made(document: dict[str, object], **secrets: str) -> dict[str, str]:
    """The environment of this job."""
    return environment(
        Base.of({"PATH": "/bin", "LANG": "C"}),
        {"id": "j1", "now": 1700000000, **document},
        secrets=secrets,
        account=ACCOUNT,
        job_log="/spool/j1.out",
        cwd="/jobs/j1",
        base_url="http://x",
    ).variables


def test_params_and_data_reach_the_environment_under_word_names() -> None:
    """Booleans are true and false, objects JSON, other characters underscores."""
    env = made(
        {
            "params": {"my-param.x": 1, "flag": True, "obj": {"a": [1]}, "none": None},
            "input": {"data": {"city": "Bern", "n": 2.0}},
            "env": {"FROM_CONFIG": "yes"},
        }
    )
    assert env["my_param_x"] == "1"
    assert env["flag"] == "true"
    assert env["obj"] == '{"a": [1]}'
    assert env["none"] == ""
    assert (env["data_city"], env["data_n"]) == ("Bern", "2")
    assert env["FROM_CONFIG"] == "yes"
    assert (env["JOB_NOW"], env["USER"], env["PWD"]) == ("1700000000", "ann", "/jobs/j1")


@pytest.mark.parametrize(
    "name", ["JOB_ID", "PATH", "HOME", "LD_PRELOAD", "LD_LIBRARY_PATH", "BASH_ENV", "TOKEN"]
)
def test_params_override_neither_fixed_names_nor_secrets_nor_loader_variables(name: str) -> None:
    """A job's params come from people who may not decide these."""
    before = made({}, TOKEN="s3cret")
    after = made({"params": {name: "evil"}}, TOKEN="s3cret")
    assert after == before


def test_a_value_too_large_for_the_system_is_left_out_with_a_remark() -> None:
    """The spawn would fail; the whole data is on stdin."""
    document = {"id": "j1", "input": {"data": {"big": "x" * LONGEST, "small": "y"}}}
    given = environment(
        Base.of({}), document, secrets={}, account=ACCOUNT, job_log="", cwd="", base_url=""
    )
    assert "data_big" not in given.variables
    assert given.variables["data_small"] == "y"
    assert "data_big" in given.remarks[0]


def test_many_values_never_exceed_the_systems_total() -> None:
    """Arguments and environment share 2 MB."""
    data = {f"k{n}": "x" * 100_000 for n in range(40)}
    env = made({"input": {"data": data}})
    assert sum(len(k) + len(v) + 2 for k, v in env.items()) < 1_600_000


def test_jobs_inherit_all_but_the_products_own_settings() -> None:
    """And the usual directories on the PATH."""
    env = inherited({"JOBLEDGER_NATS": "secret", "XYOPS_X": "1", "LANG": "C", "PATH": "/opt"})
    assert "JOBLEDGER_NATS" not in env
    assert "XYOPS_X" not in env
    assert env["LANG"] == "C"
    assert env["PATH"].startswith("/opt:")
    assert "/usr/bin" in env["PATH"].split(":")


def test_file_names_are_data() -> None:
    """No directories, control characters or leading dots; repeated names are told apart."""
    assert safe_name("../../etc/pass\nwd") == "passwd"
    assert safe_name("..hidden") == "hidden"
    assert safe_name("/") == "file"
    assert distinct_names(["a.txt", "a.txt", "b", "b"]) == ["a.txt", "a-2.txt", "b", "b-2"]


def test_output_files_are_confined_to_the_working_directory(tmp_path: Path) -> None:
    """Globs, pairs and objects; nothing from outside, through links, or that is no file."""
    work = tmp_path / "work"
    (work / "sub").mkdir(parents=True)
    (tmp_path / "secret.txt").touch()
    for name in ("a.txt", "b.txt", "sub/c.log", "odd[1].txt"):
        (work / name).touch()
    os.symlink(tmp_path / "secret.txt", work / "link.txt")
    os.symlink(tmp_path, work / "out")
    os.mkfifo(work / "fifo")
    named = [
        "*.txt",
        ["sub/c.log", "../renamed.log", True],
        {"path": "odd[1].txt"},
        "../secret.txt",
        "../*.txt",
        "out/*.txt",
        "/etc/passwd",
        "fifo",
        "nothing*",
        {"filename": "no path"},
        7,
    ]
    found, remarks = output_files(work, named)
    names = [(file.path.name, file.filename) for file in found]
    assert sorted(names) == [
        ("a.txt", "a.txt"),
        ("b.txt", "b.txt"),
        ("c.log", "renamed.log"),
        ("odd[1].txt", "odd[1].txt"),
    ]
    assert len(remarks) == 8


def test_the_scripts_own_report_hides_the_error_box() -> None:
    """Stderr becomes an html box only where the script posted nothing itself."""
    mode = Mode(shell=True)
    news = JobNews()
    fold_message(news, {"xy": 1, "markdown": {"content": "mine"}})
    outcome = result(mode, news, 0, 1, b"noise\n")
    assert outcome.report["markdown"]["content"] == "mine"
    outcome = result(mode, JobNews(), 0, 1, b"<noise>\n")
    assert outcome.report["html"] == {
        "title": "Error Output",
        "content": "<pre>&lt;noise&gt;</pre>",
    }


def test_cpu_is_percent_of_one_core_from_differences() -> None:
    """Two busy cores are 200; the first look only gives what is compared with."""
    usage = Usage()

    def process(cpu: float) -> Process:
        return Process(7, 1, 7, "R", "x", cpu, 1000, 5)

    for second, cpu in enumerate((10.0, 12.0, 12.5)):
        usage.look(Look(1e9 + second, second, 1e9, [process(cpu)], {7: 100 * second}, {}))
    assert usage.cpu.as_json() == {
        "min": 50.0, "max": 200.0, "total": 250.0, "count": 2, "current": 50.0,
    }  # fmt: skip
    assert usage.report()["disk"] == {"total": 200, "count": 3}
    assert usage.mem.current == 1000


def test_a_file_is_not_read_through_a_link_that_was_put_in_its_way_later(tmp_path: Path) -> None:
    """Given a file that may be stored, when its directory becomes a link, then it is not read."""
    work, elsewhere = tmp_path / "work", tmp_path / "elsewhere"
    (work / "sub").mkdir(parents=True)
    elsewhere.mkdir()
    for folder in (work / "sub", elsewhere):
        (folder / "x").write_text(folder.name)
    [file], _ = output_files(work, ["sub/x"])
    assert list(read_file(work, file.path)) == [b"sub"]
    (work / "sub").rename(tmp_path / "before")
    (work / "sub").symlink_to(elsewhere)
    with pytest.raises(OSError, match="sub"):
        list(read_file(work, file.path))
