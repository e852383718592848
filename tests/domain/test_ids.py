"""Numbers in the digits of identifiers."""

from hypothesis import given
from hypothesis import strategies as st

from domain.ids import base36, base36_of_15


@given(st.integers(min_value=0, max_value=36**15 - 1))
def test_base_36_is_what_python_reads_as_that(number: int) -> None:
    assert int(base36(number), 36) == number
    assert base36(number) == base36(number).lower()


@given(st.integers(min_value=0, max_value=36**15 - 1))
def test_fifteen_digits_are_the_same_with_zeros_in_front(number: int) -> None:
    assert base36_of_15(number) == base36(number).rjust(15, "0")
