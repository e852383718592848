"""The verb `nats`: the nats-server that Jobledger brings along, in the foreground."""

import os

from services.cli.options import DataDir


def nats(data_dir: DataDir = None) -> None:
    """The NATS server of a data directory; `DIR/run/*.url` say how to reach it."""
    from services.cli.datadir import announce_nats, check_nats_port, prepare_data_dir, prepare_nats
    from services.ledger.embedded import allow_late_timers
    from services.settings import load_settings

    settings = load_settings(data_dir=data_dir)
    prepare_data_dir(settings)
    (setup,) = prepare_nats(settings)
    check_nats_port(setup, settings)
    announce_nats(settings, setup)
    allow_late_timers()
    # The server takes this process's place: its signals, its pid, its exit status.
    os.execv(setup.command[0], setup.command)  # noqa: S606 - no shell is wanted
