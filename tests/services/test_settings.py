"""Where settings come from, and what a wrong one is answered with."""

import socket
from pathlib import Path

import pytest

from services.cli.datadir import check_port
from services.errors import ConfigError, StartupError
from services.settings import load_settings


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("JOBLEDGER_PORT", "JOBLEDGER_DATA_DIR", "JOBLEDGER_NATS", "JOBLEDGER_JOB_ENV"):
        monkeypatch.delenv(name, raising=False)


def test_flags_win_over_the_environment_and_that_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "jobledger.toml").write_text("port = 1001\nserver_timeout = 7\n")

    assert load_settings(data_dir=tmp_path).port == 1001
    monkeypatch.setenv("JOBLEDGER_PORT", "1002")
    assert load_settings(data_dir=tmp_path).port == 1002
    assert load_settings(data_dir=tmp_path, port=1003).port == 1003
    assert load_settings(data_dir=tmp_path, port=None).server_timeout == 7


def test_the_file_is_found_in_the_directory_that_the_environment_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "jobledger.toml").write_text('job_env = {PLACE = "here"}\n')
    monkeypatch.setenv("JOBLEDGER_DATA_DIR", str(tmp_path))

    assert load_settings().job_env == {"PLACE": "here"}


def test_every_setting_can_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """There all values are text."""
    values = {
        "replicas": ("3", 3),
        "retention_days": ("1.5", 1.5),
        "max_body": ("1000", 1000),
        "dst_policy": ("once", "once"),
        "job_env": ('{"A": "1"}', {"A": "1"}),
    }
    for name, (text, _) in values.items():
        monkeypatch.setenv(f"JOBLEDGER_{name.upper()}", text)

    settings = load_settings()

    assert {name: getattr(settings, name) for name in values} == {
        name: value for name, (_, value) in values.items()
    }


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("server_timeout = 1", "Setting 'server_timeout' is wrong: .* 5"),
        ("sever_timeout = 9", "There is no setting 'sever_timeout'"),
        ('timezone = "Nowhere/Land"', "'Nowhere/Land' is not the name of a time zone"),
        ("replicas = 2", "1, 3 or 5 copies"),
        ("port = = 1", "not valid TOML"),
    ],
)
def test_a_wrong_line_is_answered_with_one_sentence(
    line: str, sentence: str, tmp_path: Path
) -> None:
    (tmp_path / "jobledger.toml").write_text(line)

    with pytest.raises(ConfigError, match=sentence):
        load_settings(data_dir=tmp_path)


def test_the_nats_address_comes_from_the_flag_or_a_file_or_the_data_directory(
    tmp_path: Path,
) -> None:
    with pytest.raises(ConfigError, match="Start `jobledger up` first"):
        _ = load_settings(data_dir=tmp_path).nats_url

    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "nats.url").write_text("nats://one\n")
    assert load_settings(data_dir=tmp_path).nats_url == "nats://one"

    (tmp_path / "other").write_text("nats://two\n")
    assert load_settings(data_dir=tmp_path, nats=f"@{tmp_path}/other").nats_url == "nats://two"
    assert load_settings(data_dir=tmp_path, nats="nats://three").nats_url == "nats://three"


def test_the_address_of_the_api_is_one_that_clients_take(tmp_path: Path) -> None:
    assert load_settings(data_dir=tmp_path, host="::1", port=5522).api_url == "http://[::1]:5522"
    assert load_settings(data_dir=tmp_path, port=5522).api_url == "http://127.0.0.1:5522"


def test_an_empty_host_is_not_taken_for_all_addresses(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Setting 'host' is wrong"):
        load_settings(data_dir=tmp_path, host="")


def test_an_ipv6_address_is_looked_at_as_such() -> None:
    with (
        socket.create_server(("::1", 0), family=socket.AF_INET6) as other,
        pytest.raises(StartupError, match="on ::1 is in use"),
    ):
        check_port("::1", other.getsockname()[1])


def test_a_name_that_is_no_address_of_this_machine_is_told() -> None:
    with pytest.raises(StartupError, match=r"^192\.0\.2\.1 is no address of this machine"):
        check_port("192.0.2.1", 5522)
