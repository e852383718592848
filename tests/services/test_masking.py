"""Secrets stay out of what jobs write, however it is cut into reads."""

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.facts import JobFinished
from domain.masking import MASK, Mask, Withheld
from services.ledger.connection import Ledger
from tests.services.runner_bench import Bench, bench, running

VALUES = {"A": "hunter22", "B": "hunter2222-longer", "C": "key\nwith\nlines"}


def through(mask: Mask, *chunks: bytes) -> bytes:
    """What a stream in these pieces becomes."""
    stream = mask.stream()
    return b"".join([*(stream.feed(chunk) for chunk in chunks), stream.finish()])


@given(
    pieces=st.lists(st.sampled_from([*VALUES.values(), "x", "hunter", "\n", "key\n", "  "])),
    cuts=st.lists(st.integers(0, 200)),
)
def test_where_reads_are_cut_makes_no_difference(pieces: list[str], cuts: list[int]) -> None:
    data = "".join(pieces).encode()
    bounds = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    chunks = [data[a:b] for a, b in itertools.pairwise(bounds)]

    masked = through(Mask(VALUES), *chunks)

    assert masked == through(Mask(VALUES), data)
    assert not any(value.encode() in masked for value in VALUES.values())


@given(st.binary(max_size=300))
def test_output_without_secrets_passes_unchanged(data: bytes) -> None:
    assert through(Mask({"A": "a value that is nowhere"}), data[:100], data[100:]) == data


def test_one_byte_at_a_time_is_masked_as_well() -> None:
    data = b"before hunter2222-longer after hunter22"

    assert through(Mask(VALUES), *(bytes([byte]) for byte in data)) == b"before *** after ***"


def test_what_cannot_become_a_secret_is_not_held_back() -> None:
    stream = Mask(VALUES).stream()

    assert stream.feed(b"progress: hunt") == b"progress: "
    assert stream.feed(b"ing") == b"hunting"


def test_short_values_are_left_alone_and_line_feeds_at_the_ends_do_not_matter() -> None:
    assert through(Mask({"A": "12345"}), b"12345") == b"12345"
    assert through(Mask({"A": "123456\n"}), b"<123456>") == b"<***>"


def test_messages_are_masked_at_any_depth() -> None:
    message = {"xy": 1, "description": "key hunter22", "data": {"hunter22": ["hunter22", 1, None]}}

    assert Mask(VALUES).fields(message) == {
        "xy": 1,
        "description": f"key {MASK}",
        "data": {MASK: [MASK, 1, None]},
    }


def test_a_secret_that_is_a_word_of_the_protocol_does_not_cost_a_job_its_result() -> None:
    message = {"xy": 1, "complete": True, "description": "complete", "data": {"complete": 1}}
    masked = {"xy": 1, "complete": True, "description": MASK, "data": {MASK: 1}}
    assert Mask({"A": "complete"}).fields(message) == masked
    assert Mask({"A": "progress"}).fields({"xy": 1, "progress": 0.5}) == {"xy": 1, "progress": 0.5}


def test_a_number_that_is_a_secret_is_masked() -> None:
    assert Mask({"PIN": "123456"}).fields({"pin": 123456, "n": 12}) == {"pin": MASK, "n": 12}


def test_without_the_values_nothing_of_the_output_is_shown() -> None:
    withheld = Withheld()

    assert withheld.stream().feed(b"anything") == b""
    assert withheld.fields({"xy": 1, "code": "hunter22", "html": {}}) == {"xy": 1, "code": 1}


@pytest.fixture
async def scheduler(ledger: Ledger) -> Bench:
    async with bench(ledger) as made:
        yield made  # type: ignore[misc]


async def test_neither_log_nor_report_nor_live_log_shows_a_secret(
    scheduler: Bench, tmp_path: Path
) -> None:
    scheduler.secrets = {"TOKEN": "s3cret-value"}
    async with running(scheduler, tmp_path):
        order = await scheduler.script(
            'echo "out $TOKEN"; echo "err $TOKEN" >&2; printf s3cret-; sleep 0.3; echo value\n'
            'echo "{\\"xy\\":1,\\"code\\":1,\\"description\\":\\"bad $TOKEN\\"}"'
        )
        finished = await scheduler.finished(order)

    log = await scheduler.log(finished)
    assert sorted(log.splitlines()) == ["***", "err ***", "out ***"]
    assert finished.description == "bad ***"
    assert "s3cret-value" not in repr(finished)


async def test_a_runner_that_comes_back_masks_what_the_job_wrote_before_and_after(
    scheduler: Bench, tmp_path: Path
) -> None:
    scheduler.secrets = {"TOKEN": "s3cret-value"}
    mark = tmp_path / "go"
    async with running(scheduler, tmp_path):
        order = await scheduler.script(
            f'echo "one $TOKEN"; while [ ! -e {mark} ]; do sleep 0.02; done; echo "two $TOKEN"'
        )
        await scheduler.started(order)
    mark.touch()
    async with running(scheduler, tmp_path):
        finished: JobFinished = await scheduler.finished(order)

    assert await scheduler.log(finished) == "one ***\ntwo ***\n"


async def test_a_command_line_with_a_secret_is_not_started(
    scheduler: Bench, tmp_path: Path
) -> None:
    scheduler.secrets = {"TOKEN": "s3cret-value"}
    scheduler.use(command="/bin/echo --password $TOKEN")
    async with running(scheduler, tmp_path):
        finished = await scheduler.finished(await scheduler.order())

    assert finished.code == 1
    assert "The plugin's command names the secret TOKEN" in finished.description
