"""What may be stored as an event's triggers, and in which form."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from domain.errors import BadRequest
from domain.trigger_rules import check_composition, check_triggers
from domain.triggers import evaluate

Json = dict[str, Any]

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "schedule_vectors.json").read_text())[
    "vectors"
]
GATE = {
    "id": "gate",
    "type": "scheduler",
    "params": [{"id": "file", "type": "text", "required": True}],
}


def on(type_: Any, **fields: Any) -> Json:
    return {"type": type_, "enabled": True, **fields}


def saved(*triggers: Any, fields: Any = (), title: str = "") -> list[Json]:
    return check_triggers(
        list(triggers),
        scheduler_plugin_exists={"gate": GATE}.get,
        magic_token=lambda key: f"token_of_{key}",
        fields=fields,
        title=title,
    )


def refusal(*triggers: Any, **more: Any) -> str:
    with pytest.raises(BadRequest) as caught:
        saved(*triggers, **more)
    return str(caught.value)


@pytest.mark.parametrize(
    "trigger",
    [
        on("schedule"),
        on("schedule", years=[], months=[1, 12], days=[-7, -1, 1, 31], weekdays=[0, 6]),
        on("schedule", hours=[0, 23], minutes=[59, 0], timezone="America/New_York"),
        on("schedule", timezone=""),
        on("schedule", params={"a": 1}, tags=["t1"], data={"x": 1}),
        on("schedule", data=[1, 2], note="kept", id="t1"),
        on("interval", start=1735689637, duration=1),
        on("single", epoch=1735689660),
        on("manual"),
        on("magic", token="3f" * 32),
        on("startup"),
        on("keyboard", keys=["Control+KeyA"], watch=True),
        on("catchup"),
        on("catchup", mode="latest", max_backlog=10),
        on("nth", every=2),
        on("range", start=0, end=60),
        on("range", end=120),
        on("blackout", start=60, end=60),
        on("delay", duration=90),
        on("precision", seconds=[0, 59]),
        on("quiet", invisible=True, ephemeral=False),
        on("plugin", plugin_id="gate", params={"file": "/tmp/x"}, timezone="UTC"),
        {"type": "schedule"},
        {"type": "schedule", "enabled": False, "minutes": [1]},
    ],
)
def test_a_well_formed_trigger_is_stored_as_given(trigger: Json) -> None:
    assert saved(trigger) == [trigger]


@pytest.mark.parametrize(
    ("trigger", "word"),
    [
        ({"type": "cron", "enabled": True}, "Unknown"),
        ({"enabled": True}, "Unknown"),
        (on(["schedule"]), "Unknown"),
        (on("schedule") | {"enabled": "yes"}, "enabled"),
        (on("schedule", years=[0]), "years"),
        (on("schedule", months=[0]), "months"),
        (on("schedule", months=[13]), "months"),
        (on("schedule", days=[0]), "days"),
        (on("schedule", days=[-8]), "days"),
        (on("schedule", days=[32]), "days"),
        (on("schedule", weekdays=[7]), "weekdays"),
        (on("schedule", hours=[24]), "hours"),
        (on("schedule", hours=[-1]), "hours"),
        (on("schedule", hours="4"), "hours"),
        (on("schedule", hours={"4": 1}), "hours"),
        (on("schedule", hours=None), "hours"),
        (on("schedule", minutes=[60]), "minutes"),
        (on("schedule", minutes=[1.5]), "minutes"),
        (on("schedule", minutes=["5"]), "minutes"),
        (on("schedule", minutes=[True]), "minutes"),
        (on("schedule", timezone="Atlantis/Capital"), "time zone"),
        (on("schedule", timezone="../zones"), "time zone"),
        (on("schedule", timezone=5), "time zone"),
        (on("schedule", params=[]), "params"),
        (on("schedule", params={"_xy_override_uid": "root"}), "overridden"),
        (on("schedule", tags="t"), "tags"),
        (on("schedule", tags=["a b"]), "tags"),
        (on("schedule", data="x"), "data"),
        (on("interval", duration=5), "start"),
        (on("interval", start=0, duration=5), "start"),
        (on("interval", start="1", duration=5), "start"),
        (on("interval", start=True, duration=5), "start"),
        (on("interval", start=60), "duration"),
        (on("interval", start=60, duration=0), "duration"),
        (on("interval", start=60, duration=-5), "duration"),
        (on("interval", start=60, duration=1.5), "duration"),
        (on("interval", start=60, duration="60"), "duration"),
        (on("interval", start=1735689600000, duration=60), "start"),
        (on("single"), "epoch"),
        (on("single", epoch=-60), "epoch"),
        (on("single", epoch=1.5), "epoch"),
        (on("magic"), "key"),
        (on("magic", key="a b"), "key"),
        (on("magic", key=5), "key"),
        (on("magic", token=""), "token"),
        (on("keyboard"), "keys"),
        (on("keyboard", keys=[]), "keys"),
        (on("keyboard", keys=[1]), "keys"),
        (on("catchup", mode="some"), "mode"),
        (on("catchup", mode=["all"]), "mode"),
        (on("catchup", max_backlog=0), "max_backlog"),
        (on("nth"), "every"),
        (on("nth", every=1), "every"),
        (on("nth", every="2"), "every"),
        (on("nth", every=True), "every"),
        (on("nth", every=float("nan")), "every"),
        (on("range"), "range"),
        (on("range", start=0, end=0), "range"),
        (on("range", start=120, end=60), "after"),
        (on("range", start="x"), "start"),
        (on("range", end=1.5), "end"),
        (on("blackout", start=60), "blackout"),
        (on("blackout", start=120, end=60), "after"),
        (on("delay"), "duration"),
        (on("delay", duration=0), "duration"),
        (on("precision"), "seconds"),
        (on("precision", seconds=[]), "seconds"),
        (on("precision", seconds=[60]), "seconds"),
        (on("precision", seconds=["5"]), "seconds"),
        (on("quiet"), "invisible"),
        (on("quiet", invisible=False), "invisible"),
        (on("plugin"), "plugin_id"),
        (on("plugin", plugin_id="shellplug"), "shellplug"),
        (on("plugin", plugin_id="gate"), "file"),
        (on("plugin", plugin_id="gate", params={"file": "x"}, timezone="No/Where"), "time zone"),
    ],
)
@pytest.mark.parametrize("enabled", [True, False])
def test_a_malformed_trigger_is_refused_by_name_also_when_disabled(
    trigger: Json, word: str, enabled: bool
) -> None:
    asked = trigger if trigger.get("enabled") == "yes" else trigger | {"enabled": enabled}
    assert word in refusal(on("manual"), asked)
    assert refusal(on("manual"), asked).startswith("Trigger #2 (")


@pytest.mark.parametrize("triggers", ["x", {}, [5], [None]])
def test_triggers_must_be_a_list_of_objects(triggers: Any) -> None:
    with pytest.raises(BadRequest, match="triggers"):
        check_triggers(triggers, scheduler_plugin_exists=lambda _: None, magic_token=str)


def test_instants_are_floored_to_the_minute() -> None:
    assert saved(on("single", epoch=1746448477)) == [on("single", epoch=1746448440)]
    assert saved(on("range", start=119, end=200), on("blackout", start=61, end=61)) == [
        on("range", start=60, end=180),
        on("blackout", start=60, end=60),
    ]
    assert saved(on("interval", start=61, duration=7)) == [on("interval", start=61, duration=7)]


def test_precision_seconds_are_sorted_without_repetition() -> None:
    assert saved(on("precision", seconds=[50, 5, 50]))[0]["seconds"] == [5, 50]


def test_whole_numbers_written_as_fractions_become_integers() -> None:
    assert repr(saved(on("schedule", hours=[4.0]))[0]["hours"]) == "[4]"


def test_the_request_itself_is_not_changed() -> None:
    asked = on("single", epoch=1746448477, params={})
    saved(asked, fields=[{"id": "a", "type": "text", "value": "1"}])
    assert asked == on("single", epoch=1746448477, params={})


def test_saving_what_was_saved_changes_nothing() -> None:
    for vector in VECTORS:
        once = saved(*vector["triggers"])
        assert saved(*once) == once


@pytest.mark.parametrize(
    "vector", [v for v in VECTORS if v["id"][0] in "RS"], ids=lambda v: v["id"]
)
def test_what_a_vector_submits_fires_as_expected_once_saved(vector: Json) -> None:
    start, end = (int(datetime.fromisoformat(vector[k]).timestamp()) for k in ("from", "to"))
    minutes = evaluate(saved(*vector["triggers"]), start - 60, end)
    fires = [datetime.fromtimestamp(f.due, UTC) for minute in minutes for f in minute.fires]
    assert fires == [datetime.fromisoformat(text) for text in vector["expect"]]


def test_a_magic_key_becomes_its_token_and_is_forgotten() -> None:
    assert saved(on("magic", key="open-sesame_1")) == [on("magic", token="token_of_open-sesame_1")]
    replaced = saved(on("magic", key="new", token="old"))
    assert replaced == [on("magic", token="token_of_new")]


# --- Cron text -----------------------------------------------------------------------------------


def test_cron_text_is_stored_as_lists() -> None:
    assert saved(on("schedule", cron="30 2 * * mon-fri", timezone="Europe/Berlin", hours=[])) == [
        on("schedule", timezone="Europe/Berlin", minutes=[30], hours=[2], weekdays=[1, 2, 3, 4, 5])
    ]


def test_cron_text_with_both_day_fields_needs_a_choice() -> None:
    text = "0 0 13 * 5"
    assert "either" in refusal(on("schedule", cron=text))
    assert len(saved(on("schedule", cron=text, days_rule="either", params={"a": 1}))) == 2
    (both,) = saved(on("schedule", cron=text, days_rule="both"))
    assert both == on("schedule", minutes=[0], hours=[0], days=[13], weekdays=[5])


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"cron": "61 x * * *"}, "hour"),
        ({"cron": "0 0 * * *", "hours": [1]}, "either"),
        ({"cron": 5}, "cron"),
        ({"cron": "0 0 1 * 1", "days_rule": "maybe"}, "both"),
    ],
)
def test_cron_text_that_cannot_be_read_is_refused(fields: Json, word: str) -> None:
    assert word in refusal(on("schedule", **fields))


def test_h_in_cron_text_follows_the_events_title() -> None:
    a, b = (saved(on("schedule", cron="h h * * *"), title=t)[0] for t in ("Backup", "Report"))
    assert a != b


# --- Combinations --------------------------------------------------------------------------------

ONE_OF_EACH = {
    "startup": {},
    "catchup": {},
    "nth": {"every": 2},
    "manual": {},
    "precision": {"seconds": [1]},
    "quiet": {"ephemeral": True},
    "plugin": {"plugin_id": "gate", "params": {"file": "x"}},
    "delay": {"duration": 5},
}


@pytest.mark.parametrize("type_", ONE_OF_EACH)
def test_only_one_enabled_trigger_of_some_types(type_: str) -> None:
    trigger = on(type_, **ONE_OF_EACH[type_])
    assert type_ in refusal(trigger, trigger)
    assert len(saved(trigger, trigger | {"enabled": False})) == 2


@pytest.mark.parametrize(
    "trigger",
    [
        on("schedule"),
        on("interval", start=60, duration=60),
        on("single", epoch=60),
        on("magic", key="k"),
        on("keyboard", keys=["F1"]),
        on("range", end=60),
        on("blackout", start=60, end=60),
    ],
)
def test_any_number_of_other_types(trigger: Json) -> None:
    assert len(saved(trigger, trigger, trigger)) == 3


@pytest.mark.parametrize(
    ("one", "other"), [("interval", "precision"), ("interval", "delay"), ("precision", "delay")]
)
def test_ways_to_move_the_start_exclude_each_other(one: str, other: str) -> None:
    fields = ONE_OF_EACH | {"interval": {"start": 60, "duration": 60}}
    pair = [on(one, **fields[one]), on(other, **fields[other])]
    assert "exclude" in refusal(*pair)
    assert len(saved(pair[0], pair[1] | {"enabled": False})) == 2


def test_stored_triggers_can_be_checked_for_their_combination_alone() -> None:
    check_composition([on("manual"), {"type": "manual"}])
    with pytest.raises(BadRequest, match="manual"):
        check_composition([on("manual"), on("manual")])


# --- The event's own fields ----------------------------------------------------------------------

FIELDS = [
    {"id": "color", "type": "text", "value": "red", "regex": "^[a-z]+$"},
    {"id": "size", "type": "select", "value": "Small [s], Large [l]"},
    {"id": "origin", "type": "hidden", "value": "form"},
    {"id": "heading", "type": "group"},
]


@pytest.mark.parametrize(
    "trigger",
    [
        on("schedule"),
        on("interval", start=60, duration=60),
        on("single", epoch=60),
        on("startup"),
        on("keyboard", keys=["F1"]),
    ],
)
def test_field_defaults_are_filled_into_launching_triggers(trigger: Json) -> None:
    asked = trigger | {"params": {"size": "l", "origin": "elsewhere", "more": 1}}
    (stored,) = saved(asked, fields=FIELDS)
    assert stored["params"] == {"color": "red", "size": "l", "origin": "form", "more": 1}
    assert saved(trigger, fields=FIELDS)[0]["params"]["size"] == "s"


def test_other_triggers_get_no_field_values() -> None:
    assert saved(on("manual"), on("magic", key="k"), fields=FIELDS)[0] == on("manual")


def test_trigger_params_are_checked_against_the_fields() -> None:
    assert "color" in refusal(on("schedule", params={"color": "R2"}), fields=FIELDS)
    needed = [{"id": "who", "type": "text", "required": True}]
    assert "who" in refusal(on("schedule"), fields=needed)


def test_without_fields_params_stay_as_they_are() -> None:
    assert saved(on("schedule")) == [on("schedule")]
