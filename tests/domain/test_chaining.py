"""Jobs that launch each other: who may be launched, with what, and how deep."""

import pytest

from domain import facts as f
from domain.assembly import Made
from domain.chaining import DEEPEST, Launcher, child_id, launched
from domain.errors import RuleBroken
from domain.facts import Json
from tests.domain.test_acting import ACTOR, Story, action


class Definitions:
    """Two events and what they refer to."""

    def __init__(self, **event: object) -> None:
        manual = [{"type": "manual", "enabled": True}]
        self.target: Json = {"id": "e2", "title": "Next", "enabled": True, "triggers": manual}
        self.target |= {"category": "general", "plugin": "p1"} | event

    def event(self, id: str) -> Json | None:
        return self.target if id == "e2" else None

    def record(self, type: str, id: str) -> Json | None:
        return {"id": id, "title": id, "enabled": True}

    def records(self, type: str) -> list[Json]:
        return []

    def category_in_use(self, id: str) -> bool:
        return True


def chain(story: Story, known: Definitions, today: int = 0) -> f.JobRequested:
    """What the story's last action launches; the target met each condition `today` times."""
    run = story.job.actions[-1]
    made = Made(event=known.target, category={}, plugin={"id": "p1", "enabled": True}, config={})
    launcher = Launcher(story.job, run, 0, "Success")
    of = f.MadeOf(event=5, plugin=6)
    return launched(
        launcher, known, made, of, {"a": 1}, now=200.0, actor=ACTOR, count=lambda _: today
    )


def chaining(**fields: object) -> Story:
    return Story(action("run_event", event_id="e2", **fields)).ran(0, files=[{"id": "f1"}]).ended()


def test_a_chained_job_gets_the_output_of_the_one_before() -> None:
    request = chain(chaining(), Definitions())

    assert request.event == "e2"
    assert request.source == "action"
    assert request.input == {"data": {"a": 1}, "files": [{"id": "f1"}]}
    assert request.parent is not None
    assert request.parent["job"] == "j1"
    assert request.parent["chain_depth"] == 1


def test_the_same_action_always_launches_the_same_job() -> None:
    story = chaining()

    assert chain(story, Definitions()).job == child_id(story.job, story.job.actions[-1])
    assert chain(story, Definitions()).job == chain(story, Definitions()).job


def test_only_params_that_are_fields_of_the_target_are_taken() -> None:
    story = chaining(params={"who": "joe", "script": "rm"})
    request = chain(story, Definitions(fields=[{"id": "who", "type": "text"}]))

    assert request.overrides == {"params": {"who": "joe"}}


def test_a_daily_limit_of_the_target_counts_for_chained_jobs_too() -> None:
    limit = {"type": "day", "enabled": True, "condition": "error", "amount": 2}
    known = Definitions(limits=[limit])
    assert chain(chaining(), known, today=1).event == "e2"

    with pytest.raises(RuleBroken) as refused:
        chain(chaining(), known, today=2)
    text = "Maximum daily 'error' count of 2 has been reached for event: e2"
    assert (refused.value.code, refused.value.description) == ("event", text)

    off = Definitions(limits=[limit | {"enabled": False}, limit | {"amount": 0}])
    assert chain(chaining(), off, today=9).event == "e2"


def test_a_chained_job_may_wait() -> None:
    request = chain(chaining(start_delay=30), Definitions())

    assert (request.wait, request.until) == ("start_delay", 230.0)


@pytest.mark.parametrize(
    "known",
    [Definitions(triggers=[]), Definitions(enabled=False), Definitions(id="e3")],
    ids=["no manual trigger", "disabled", "gone"],
)
def test_a_target_that_may_not_be_run_is_refused(known: Definitions) -> None:
    story = chaining()
    if known.target["id"] == "e3":
        known.event = lambda id: None  # type: ignore[method-assign]
    with pytest.raises(RuleBroken):
        chain(story, known)


def test_a_chain_ends_at_its_greatest_depth() -> None:
    deep = {"job": "j0", "chain_depth": DEEPEST}
    story = Story(action("run_event", event_id="e2"), parent=deep).ran(0).ended()
    with pytest.raises(RuleBroken, match="chain"):
        chain(story, Definitions())
