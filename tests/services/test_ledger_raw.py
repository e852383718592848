"""Reading a closed range of the ledger, byte by byte."""

from services.ledger.connection import Ledger
from services.ledger.raw import BATCH, read_raw
from tests.services.wire import tick


async def test_more_facts_than_one_pull_brings_are_read_in_order(ledger: Ledger) -> None:
    """The end of a full pull is no trouble, whenever the server tells it."""
    many = [(f"t{number}", tick(number)) for number in range(BATCH)]
    for part in range(3):
        await ledger.append_all([(f"{id}-{part}", fact) for id, fact in many])
    end = await ledger.end()

    read = [fact.sequence async for batch in read_raw(ledger, after=0, upto=end) for fact in batch]

    assert read == list(range(1, 3 * BATCH + 1))
