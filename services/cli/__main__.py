"""`python -m services.cli` is the command `jobledger`."""

from services.cli.entry import run

run()
