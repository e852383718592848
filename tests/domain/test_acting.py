"""Actions of a job and what follows from them, told in facts."""

import pytest
from hypothesis import given as forall
from hypothesis import strategies as st

from domain import facts as f
from domain.acting import (
    LAST,
    ON_TIMEOUT,
    OUTSIDE,
    UPDATE,
    Outcome,
    actions_of,
    advance,
    at_end,
    at_start,
    begin,
    event_update,
    instants,
    settled,
    suspended_until,
    to_perform,
    unfinished,
)
from domain.actions import conditions_of
from domain.assembly import Made, assemble
from domain.completion import Result, complete, result_of, retry_of
from domain.facts import Actor, Json, Recorded
from domain.job import JobState, evolve
from domain.job import begin as job_begin
from domain.subjects import subject_of

ACTOR = Actor(type="scheduler", id="7")
USER = Actor(type="user", id="joe", address="10.0.0.1")
COMMON: Json = {"at": 101.0, "actor": ACTOR, "event": "e1", "job": "j1"}
FAILED = Result(1, "Exit 1")
FINE = Result(0, "Success")


def action(type: str, condition: str = "complete", **fields: object) -> Json:
    return {"type": type, "condition": condition, "enabled": True} | fields


def hook(condition: str = "complete") -> Json:
    return action("web_hook", condition, web_hook="w1")


class Story:
    """A job and the ledger it lives on: every decision is appended and folded."""

    def __init__(self, *actions: Json, limits: list[Json] | None = None, **request: object) -> None:
        fields = COMMON | {"at": 100.0, "made_of": {"event": 1}, "source": "user"}
        fields |= {"username": "joe", "now": 100.0} | request
        asked = f.from_plain(f.JobRequested, fields)
        event = {"id": "e1", "title": "Nightly", "actions": list(actions), "limits": limits or []}
        spec = assemble(Made(event=event, category={}, plugin={}, config={}), asked)
        self.sequence = 10
        self.job = job_begin(Recorded(10, subject_of(asked), asked), spec)
        self.outcomes: dict[tuple[str, int], Outcome] = {}

    def given(self, *facts: f.Fact) -> "Story":
        for fact in facts:
            self.sequence += 1
            self.job = evolve(self.job, Recorded(self.sequence, subject_of(fact), fact))
        return self

    def happened(self, kind: type[f.FactBase], **fields: object) -> "Story":
        return self.given(f.from_plain(kind, COMMON | fields))  # type: ignore[arg-type]

    def held(self) -> "Story":
        """Its start actions have begun on a chosen server."""
        self.happened(f.JobStarting, server="s1")
        return self.given(*begin(self.job, "start", at_start(self.job), now=101.0, actor=ACTOR))

    def ran(self, code: int | str = 0, **report: object) -> "Story":
        """Its process ran and ended."""
        self.happened(
            f.JobAssigned, server="s1", boot="b1", attempt=1, made_of={"event": 1}, at=102.0
        )
        end = {"order": self.sequence, "code": code, "description": "", "ended": 110.0}
        return self.happened(f.JobFinished, server="s1", boot="b1", report=report, **end)

    def ended(self, result: Result | None = None) -> "Story":
        """Its completion actions have begun."""
        result = result or result_of(self.job)
        assert result is not None
        chosen = at_end(self.job, result, {})
        begun = begin(self.job, "end", chosen, now=111.0, actor=ACTOR)
        return self.given(*begun, settled(self.job, result, now=111.0, actor=ACTOR))

    def advance(self, now: float = 112.0, source: str = "user") -> list[f.Fact]:
        facts = advance(
            self.job,
            lambda key: self.outcomes.get(key),
            source=source,
            shown=lambda: self.job.spec.document | self.job.changes,
            now=now,
            actor=ACTOR,
        )
        self.given(*facts)
        return facts


def kinds(facts: list[f.Fact]) -> list[str]:
    return [fact.kind for fact in facts]


def types(chosen: list[tuple[int, Json]]) -> list[str]:
    return [a["type"] for _, a in chosen]


# --- which actions begin


def test_start_actions_begin_while_the_server_is_held() -> None:
    story = Story(hook("start"), hook("complete")).held()

    assert story.job.state is JobState.STARTING
    assert story.job.held
    assert [run.index for run in to_perform(story.job)] == [0]


def test_an_action_that_began_does_not_begin_again() -> None:
    story = Story(hook("start"), action("tag", "start", tags=["t1"])).held()

    assert at_start(story.job) == []


def test_start_actions_do_not_run_twice_when_a_server_gives_the_job_back() -> None:
    story = Story(action("tag", "start", tags=["t1"])).held()
    story.advance()
    story.happened(f.JobAssigned, server="s1", boot="b1", attempt=1, made_of={"event": 1})
    returned = {"server": "s1", "boot": "b1", "order": story.sequence, "reason": "busy"}
    story.happened(f.JobReturned, **returned)

    assert story.job.state is JobState.READY
    assert at_start(story.job) == []


def test_a_success_fires_complete_and_success_in_this_order() -> None:
    actions = [action("label", "success", label="x"), hook("complete"), hook("error")]
    story = Story(*actions).ran(0)

    assert types(at_end(story.job, FINE, {})) == ["web_hook", "label"]


def test_a_tag_that_the_process_pushed_by_title_fires_its_condition() -> None:
    story = Story(hook("tag:t1")).ran(0, push={"tags": ["Late"]})

    assert types(at_end(story.job, FINE, {"Late": "t1"})) == ["web_hook"]


def test_pushed_actions_come_last_and_instant_ones_first() -> None:
    pushed = [action("label", "complete", label="b"), action("tag", "instant", tags=["t1"])]
    story = Story(hook()).ran(0, push={"actions": pushed})

    assert [a.get("source") for a in actions_of(story.job)] == [None, "job", "job"]
    assert types(at_end(story.job, FINE, {})) == ["tag", "web_hook", "label"]


def test_an_instant_action_runs_once_while_the_job_runs() -> None:
    pushed = [action("label", "complete", label="b"), action("tag", "instant", tags=["t1"])]
    story = Story(hook())
    chosen = instants(story.job, [(1, pushed[1])])
    story.given(*begin(story.job, "end", chosen, now=101.0, actor=ACTOR))

    assert [index for index, _ in chosen] == [2]
    assert instants(story.job, [(1, pushed[1])]) == []
    story.ran(0, push={"actions": pushed})
    assert types(at_end(story.job, FINE, {})) == ["web_hook", "label"]


def test_disabling_at_start_waits_for_the_end() -> None:
    story = Story(action("disable", "start"))

    assert at_start(story.job) == []
    assert types(at_end(story.ran(0).job, FINE, {})) == ["disable"]


def test_the_event_changes_only_after_all_other_actions() -> None:
    story = Story(hook(), action("disable")).ran(0).ended()
    assert [run.action["type"] for run in to_perform(story.job)] == ["web_hook"]

    story.outcomes["end", 0] = Outcome(0)
    story.advance()

    assert [run.action["type"] for run in to_perform(story.job)] == ["disable"]


def test_a_multiplex_parent_leaves_the_actions_to_its_children() -> None:
    story = Story(hook()).happened(f.JobFannedOut, children=[f.Child(job="j2", server="s1")])

    assert at_end(story.job, FINE, {}) == []


def test_a_tag_that_an_action_adds_does_not_fire_another_action() -> None:
    story = Story(action("tag", tags=["t1"]), hook("tag:t1")).ran(0).ended()
    story.advance()

    assert unfinished(story.job) == []
    assert [run.action["type"] for run in story.job.actions] == ["tag"]


# --- what they do to the job


def test_tags_of_several_actions_add_up() -> None:
    one, other = action("tag", "complete", tags=["t1"]), action("tag", "success", tags=["t2"])
    story = Story(one, other | {"type": "tag"}, add_tags=["t0"])
    begun = begin(story.job, "end", [(0, one), (1, other)], now=1.0, actor=ACTOR)
    story.given(*begun)
    story.advance()

    assert story.job.value("tags") == ["t0", "t1", "t2"]


def test_a_label_shows_the_job_and_loses_its_markup() -> None:
    story = Story(action("label", label="{{ params.who }} <b>done</b>"), overrides={})
    story.happened(f.JobChanged, changes={"params": {"who": "joe"}})
    story.ran(0).ended().advance()

    assert story.job.value("label") == "joe done"


def test_a_launched_job_is_named_by_its_parent() -> None:
    story = Story(action("run_event", event_id="e2")).ran(0).ended()
    story.outcomes["end", 0] = Outcome(0, child="j9")
    story.advance()
    done = complete(story.job, FINE, known_tags={}, now=120.0, actor=ACTOR)

    assert done.jobs == [{"id": "j9", "reason": "action"}]


def test_the_failure_of_an_action_does_not_change_the_result() -> None:
    story = Story(hook()).ran(0).ended()
    story.outcomes["end", 0] = Outcome("web_hook", "refused", http_status=500)
    (fact,) = story.advance()

    assert isinstance(fact, f.ActionEnded)
    assert (fact.code, fact.http_status) == ("web_hook", 500)
    assert result_of(story.job) == Result(0, "Success", retry_ok=True)


@pytest.mark.parametrize("type", ["store", "fetch", "channel", "ticket", "snapshot", "made_up"])
def test_types_without_a_subsystem_end_with_code_type(type: str) -> None:
    story = Story(action(type)).ran(0).ended()
    (fact,) = story.advance()

    assert isinstance(fact, f.ActionEnded)
    assert fact.code == "type"


def test_a_job_with_actions_under_way_is_not_decided_upon() -> None:
    story = Story(hook()).ran(0).ended()

    assert story.advance() == []
    assert len(unfinished(story.job)) == 1


# --- the end of the job


def test_the_time_of_the_end_is_that_of_the_process_not_of_the_actions() -> None:
    story = Story(hook()).ran(0).ended()

    assert story.job.completed == 110.0


def test_a_job_whose_actions_ran_is_not_retried() -> None:
    story = Story(hook(), limits=[{"type": "retry", "enabled": True, "amount": 3}]).ran(1)
    assert retry_of(story.job, FAILED, 111.0) is not None

    story.ended(FAILED)

    assert retry_of(story.job, FAILED, 111.0) is None


def test_an_abort_during_completion_actions_changes_the_code() -> None:
    story = Story(hook()).ran(0).ended().happened(f.JobAbortRequested, reason="Enough")

    assert result_of(story.job) == Result("abort", "Enough")


def test_an_abort_from_before_the_end_does_not_change_what_the_process_said() -> None:
    story = Story(hook())
    story.happened(f.JobAssigned, server="s1", boot="b1", attempt=1, made_of={"event": 1})
    order = story.sequence
    story.happened(f.JobAbortRequested, reason="Too late")
    report = {"order": order, "code": 0, "description": "", "ended": 110.0}
    story.happened(f.JobFinished, server="s1", boot="b1", **report).ended()

    assert result_of(story.job) == Result(0, "Success")


def test_what_the_process_changes_of_its_event_is_carried_out_like_an_action() -> None:
    story = Story().ran(0, update_event={"notes": "x"})
    story.given(*begin(story.job, UPDATE, event_update(story.job), now=111.0, actor=ACTOR))

    assert [run.action["type"] for run in to_perform(story.job)] == ["update_event"]
    assert event_update(story.job) == []


def test_an_administrator_changes_a_live_job() -> None:
    story = Story(add_tags=["t0"]).happened(f.JobUpdateRequested, changes={"label": "x"})

    assert kinds(story.advance()) == ["JobChanged"]
    assert story.job.value("label") == "x"
    assert story.advance() == []


@pytest.mark.parametrize("key", ["tags", "targets", "actions", "limits", "params", "input"])
def test_no_change_of_a_wrong_type_reaches_a_decision(key: str) -> None:
    story = Story(hook()).happened(f.JobUpdateRequested, changes={key: 5})
    story.happened(f.JobChanged, changes={key: 5})

    assert story.advance() == []
    assert story.job.value(key) != 5


def test_no_param_overrides_a_property_with_a_wrong_type() -> None:
    params = {"_xy_override_tags": 5, "_xy_override_targets": [{}], "_xy_override_label": "x"}
    story = Story(overrides={"params": params})

    assert (story.job.value("tags"), story.job.value("targets")) == ([], None)
    assert story.job.value("label") == "x"


# --- suspension


def suspended(**fields: object) -> Story:
    story = Story(action("suspend", "start", **fields)).held()
    assert kinds(story.advance()) == ["JobSuspended"]
    return story


def test_a_suspended_job_holds_its_slot_and_waits() -> None:
    story = suspended()

    assert story.job.suspended == ("start", 0)
    assert story.job.held
    assert story.advance() == []


def test_resuming_takes_new_params_and_lets_the_server_go() -> None:
    story = suspended()
    story.happened(f.JobResumeRequested, actor=USER, params={"x": "{{ id }}"})
    ended, resumed = story.advance()

    assert isinstance(ended, f.ActionEnded)
    assert ended.description == "Job was resumed by user joe."
    assert "10.0.0.1" in (ended.details or "")
    assert resumed.kind == "JobResumed"
    assert story.job.suspended is None
    assert story.job.held
    assert story.job.server is None
    assert story.job.value("params")["x"] == "{{ id }}"


def test_resumed_params_may_override_the_targets() -> None:
    story = suspended()
    story.happened(f.JobResumeRequested, params={"_xy_override_targets": ["s2"]})
    story.advance()

    assert story.job.value("targets") == ["s2"]


def test_resuming_at_the_end_leaves_the_params_alone() -> None:
    story = Story(action("suspend")).ran(0).ended()
    story.advance()
    story.happened(f.JobResumeRequested, params={"x": 1})
    resumed = story.advance()[1]

    assert isinstance(resumed, f.JobResumed)
    assert resumed.params == {"x": 1}
    assert story.job.value("params") == {}
    assert story.job.server == "s1"


def test_a_crash_between_the_result_and_the_resumption_is_made_good() -> None:
    story = suspended().happened(f.JobResumeRequested, params={"x": 1})
    ended, _ = advance(story.job, lambda _: None, source="user", shown=dict, now=112.0, actor=ACTOR)
    story.given(ended)

    assert kinds(story.advance()) == ["JobResumed"]
    assert story.job.value("params")["x"] == 1
    assert story.advance() == []


def test_aborting_a_suspended_job_ends_the_suspension() -> None:
    story = suspended().happened(f.JobAbortRequested, reason="Enough")
    (fact,) = story.advance()

    assert isinstance(fact, f.ActionEnded)
    assert (fact.code, fact.description) == ("abort", "Enough")
    assert unfinished(story.job) == []


def test_aborting_a_job_suspended_at_its_end_makes_it_an_abort() -> None:
    story = Story(action("suspend")).ran(0).ended()
    story.advance()
    story.happened(f.JobAbortRequested, reason="Enough")
    story.advance()

    assert unfinished(story.job) == []
    assert result_of(story.job) == Result("abort", "Enough")


def test_a_suspension_for_other_sources_is_skipped() -> None:
    story = Story(action("suspend", "start", sources=["scheduler"])).held()

    assert kinds(story.advance(source="user")) == ["ActionEnded"]
    assert story.job.suspended is None


@pytest.mark.parametrize(
    ("on_timeout", "then"),
    [("resume", ["ActionEnded", "JobResumed"]), ("abort", ["JobAbortRequested"])],
)
def test_a_suspension_may_end_by_itself(on_timeout: str, then: list[str]) -> None:
    story = suspended(timeout=60, on_timeout=on_timeout)

    assert suspended_until(story.job) == 161.0
    assert story.advance(now=160.0) == []
    assert kinds(story.advance(now=161.0)) == then


def test_a_timeout_that_aborts_says_why() -> None:
    story = suspended(timeout=60)
    story.advance(now=200.0)
    story.advance(now=200.0)

    assert story.job.abort is not None
    assert story.job.abort.reason == ON_TIMEOUT
    assert unfinished(story.job) == []


# --- any history

ANY_ACTION = st.builds(
    action,
    st.sampled_from([*sorted(OUTSIDE), "suspend", "tag", "label", "store", "snapshot", "odd"]),
    st.sampled_from(["start", "complete", "success", "error", "abort", "instant"]),
    tags=st.just(["t1"]),
    label=st.just("x"),
)


@forall(st.lists(ANY_ACTION, max_size=6), st.sampled_from([0, 1, "abort"]))
def test_every_stage_comes_to_an_end(actions: list[Json], code: int | str) -> None:
    """Whatever the actions are: as soon as each has its outcome and resumption, all are over."""
    story = Story(*actions).held()
    _drive(story)
    story.ran(code).ended(Result(code, ""))
    _drive(story)

    assert unfinished(story.job) == []
    assert story.job.suspended is None
    assert all(
        run.action["condition"] != "start" or run.stage == "start" or (run.action["type"] in LAST)
        for run in story.job.actions
    )


@forall(st.lists(ANY_ACTION, max_size=6), st.sampled_from([0, 1, "abort"]))
def test_an_action_fires_once_and_only_for_its_condition(
    actions: list[Json], code: int | str
) -> None:
    story = Story(*actions).ran(code).ended(Result(code, ""))
    keys = [(run.stage, run.index) for run in story.job.actions]

    assert len(keys) == len(set(keys))
    assert at_end(story.job, Result(code, ""), {}) == []
    fulfilled = {*conditions_of(code, ()), "instant"}
    assert all(
        run.action["condition"] in fulfilled or run.action["type"] in LAST
        for run in story.job.actions
    )


def _drive(story: Story) -> None:
    for _ in range(10):
        for run in to_perform(story.job):
            story.outcomes[run.stage, run.index] = Outcome(0)
        if story.job.suspended is not None:
            story.happened(f.JobResumeRequested)
        if not story.advance():
            return
    raise AssertionError("the stage does not end")


@pytest.mark.parametrize("kind", sorted(LAST))
def test_a_job_that_never_came_to_start_leaves_its_event_alone(kind: str) -> None:
    story = Story(action(kind, "start"))

    assert at_end(story.job, Result("abort", "stop"), {}) == []
    assert types(at_end(story.held().happened(f.JobStarting, server="s1").job, FINE, {})) == [kind]
