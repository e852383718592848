"""What silence says of servers: nothing to a leader that is new, or that stood still itself."""

from domain import facts as f
from domain.dispatch import Chosen, NoServer
from domain.facts import Recorded
from projections.active_jobs import ActiveJobs
from projections.definitions import Definitions
from projections.event_state import EventStates
from projections.fleet import Fleet
from services.scheduler.choosing import SETTLE, SILENT, Chooser

WHO = f.Actor(type="system", id="test")
LOST = 120.0


class Setting:
    """A fleet of one server, `s1`, and a job that wants it. `now` is the time that passes."""

    def __init__(self) -> None:
        definitions, self.fleet, self.now = Definitions(), Fleet(), 1000.0
        jobs = ActiveJobs(definitions)
        self.chooser = Chooser(definitions, jobs, self.fleet, EventStates("UTC"), lambda: self.now)
        joined = f.ServerJoined(
            at=1, actor=WHO, server="s1", boot="b", machine_boot="m", hostname="h", groups=["main"]
        )
        self.fleet.apply(Recorded(1, "", joined))
        definition = {"id": "e1", "targets": ["main"], "algo": "random"}
        created = f.EventCreated(at=1, actor=WHO, event="e1", definition=definition)
        definitions.apply(Recorded(2, "", created))
        request = f.JobRequested(
            at=1, actor=WHO, event="e1", job="j1", made_of=f.MadeOf(event=2), source="key",
            username="k", now=1,
        )  # fmt: skip
        self.job = jobs.apply(Recorded(3, "", request))[0]

    def hear(self) -> None:
        self.chooser.heard({"server": "s1", "boot": "b"})

    def pass_by(self, seconds: float) -> None:
        """Time passes, with a round each second."""
        for _ in range(int(seconds)):
            self.now += 1
            self.chooser.round()

    def unsettled(self) -> bool:
        found = self.chooser.choose(self.job)
        assert isinstance(found, NoServer)
        return found.unsettled


def test_a_leader_that_stood_still_heard_nobody_meanwhile() -> None:
    """Given a server that is heard each second; when the leader is stopped for as long as a lost
    server is silent, then that server is not lost, and no job ends for want of it."""
    setting = Setting()
    setting.chooser.begin()
    setting.chooser.round()
    setting.hear()

    setting.now += LOST + 1
    setting.chooser.round()
    assert not setting.chooser.silent("s1", SILENT)
    assert setting.unsettled()

    setting.hear()
    assert isinstance(setting.chooser.choose(setting.job), Chosen)


def test_a_server_that_was_silent_while_somebody_listened_is_lost() -> None:
    setting = Setting()
    setting.chooser.begin()
    setting.hear()
    setting.pass_by(LOST + 1)
    assert setting.chooser.silent("s1", LOST)
    assert not setting.unsettled()


def test_a_new_leader_waits_for_a_server_as_long_as_the_old_one_would_have() -> None:
    setting = Setting()
    setting.chooser.begin()
    setting.pass_by(SETTLE + 1)
    assert setting.unsettled()
    setting.pass_by(SILENT - SETTLE)
    assert not setting.unsettled()


def test_nobody_waits_for_a_server_that_has_left() -> None:
    setting = Setting()
    setting.chooser.begin()
    left = f.ServerLeft(at=2, actor=WHO, server="s1", boot="b", reason="stopped")
    setting.fleet.apply(Recorded(4, "", left))
    setting.pass_by(SETTLE + 1)
    assert not setting.unsettled()
