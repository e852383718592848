"""What our processes tell each other arrives, also where it is hardly JSON."""

import json
import math
import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.json_bytes import as_json, from_json

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(PLAIN)
def test_what_is_written_is_read_by_us_and_by_others(value: Any) -> None:
    assert from_json(as_json(value)) == json.loads(as_json(value)) == value


@given(PLAIN)
def test_what_a_release_before_wrote_is_read(value: Any) -> None:
    assert from_json(json.dumps(value).encode()) == value


def test_bytes_that_are_no_text_survive() -> None:
    """Variables that the runner inherits may be any bytes, and so may what a job prints."""
    request = {"env": {"A": os.fsdecode(b"\xff\xfe"), "B": "ü"}, "order": 2**53}
    assert from_json(as_json(request)) == json.loads(as_json(request)) == request
    assert os.fsencode(from_json(as_json(request))["env"]["A"]) == b"\xff\xfe"


def test_numbers_that_are_none_are_read() -> None:
    assert math.isnan(from_json(b'{"a": NaN}')["a"])


@pytest.mark.parametrize("data", [b"", b'{"a":', b"\xff", b"{'a': 1}"])
def test_what_is_no_json_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        from_json(data)
