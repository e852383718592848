"""`python -m services.cli` is the command `jobledger`."""

from services.cli.main import run

run()
