"""Options of the fault suite; tests marked `long` run only with `make chaos`."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--seed` and `--blows` for the long storm."""
    parser.addoption("--seed", type=int, default=1, help="seed of the long storm")
    parser.addoption("--blows", type=int, default=200, help="blows of the long storm")


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """What the storm's blows are drawn from."""
    return int(request.config.getoption("--seed", 1))


@pytest.fixture
def blows(request: pytest.FixtureRequest) -> int:
    """How many blows the long storm deals."""
    return int(request.config.getoption("--blows", 200))
