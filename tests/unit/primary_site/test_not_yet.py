"""A site that changes its role is waited for; one that waits for a person is told."""

from __future__ import annotations

from primary_site.not_yet import WAITS_FOR_OPERATOR_SECONDS as LONG
from primary_site.not_yet import NotYet

CHANGING = "group 'g' is changing its role at the remote just now"
SERVING = "the remote sends group 'g' itself"


def test_a_change_of_roles_is_no_matter_for_an_operator() -> None:
    answers = NotYet()
    assert answers.told(CHANGING, 100.0), "said once"
    for now in (102.0, 104.0, 106.0):
        assert not answers.told(CHANGING, now)
        assert not answers.waits_for_operator(now)
    answers.over()
    assert not answers.waits_for_operator(100.0 + 10 * LONG)


def test_what_is_said_for_long_is() -> None:
    answers = NotYet()
    answers.told(SERVING, 100.0)
    assert not answers.told(SERVING, 100.0 + LONG)
    assert answers.waits_for_operator(100.0 + LONG)


def test_another_answer_begins_anew() -> None:
    answers = NotYet()
    answers.told(SERVING, 100.0)
    assert answers.told(CHANGING, 100.0 + 2 * LONG), "somebody gives it up"
    assert not answers.waits_for_operator(100.0 + 2 * LONG)
