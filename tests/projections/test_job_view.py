"""What a job shows of what its process reported and its actions changed."""

from domain import facts as f
from domain.completion import complete, result_of
from domain.facts import Json
from projections.job_view import document
from tests.domain.test_acting import ACTOR, FINE, Story, action

LABEL = action("label", label="by an action")


def final(story: Story) -> Json:
    """The document of a job that has its end."""
    result = result_of(story.job)
    assert result is not None
    done = complete(story.job, result, known_tags={}, now=120.0, actor=ACTOR)
    return document(story.given(done).job)


def test_a_label_that_a_completion_action_sets_replaces_what_the_process_said() -> None:
    story = Story(LABEL).ran(0, label="by the process").ended()
    assert document(story.job)["label"] == "by the process"

    story.advance()

    assert document(story.job)["label"] == "by an action"
    assert final(story)["label"] == "by an action"


def test_what_a_process_reported_replaces_a_label_from_before() -> None:
    story = Story(LABEL | {"condition": "start"}).held()
    story.advance()
    story.ran(0, label="by the process").ended(FINE)

    assert final(story)["label"] == "by the process"


def test_an_administrator_has_the_last_word_on_a_label() -> None:
    story = Story(LABEL, action("web_hook", web_hook="w1")).ran(0, label="by the process").ended()
    story.advance()
    story.happened(f.JobChanged, changes={"label": "by hand"})

    assert document(story.job)["label"] == "by hand"
