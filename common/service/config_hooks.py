"""The table of programs that run before and after a group's cuts."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from common.service.config_common import Table, json_text, written
from common.service.units import Seconds, time_bounds

WORDS_MAX = 64
WORD_BYTES_MAX = 4096
"""A program and its arguments: far more than one writes, far less than the system's."""


def _check_words(words: tuple[str, ...]) -> tuple[str, ...]:
    if not words[0].startswith("/"):
        raise ValueError(
            f"{words[0]!r}: name the program with its whole path, as in "
            '["/etc/farshore/hooks/fsfreeze.sh", "before"]; there is no shell'
        )
    for word in words:
        if "\0" in word or len(word.encode()) > WORD_BYTES_MAX:
            raise ValueError(f"a word has at most {WORD_BYTES_MAX} bytes, none zero")
    return words


def _no_command_line(value: Any) -> Any:
    if isinstance(value, str):
        raise ValueError(  # noqa: TRY004 - what pydantic makes a sentence of
            'write a list of words, as in ["/etc/farshore/hooks/mine.sh", "before"]: '
            "there is no shell that would take a line apart"
        )
    return value


HookWords = Annotated[
    tuple[str, ...],
    Field(min_length=1, max_length=WORDS_MAX),
    BeforeValidator(_no_command_line),
    AfterValidator(_check_words),
]


class HooksTable(Table):
    """Programs that run before and after each cut of the group."""

    before_cut: HookWords | None = Field(
        default=None,
        description=(
            "Program and arguments, run before hosts' writes are held; the cut waits "
            "for its end. It has applications write what they hold in memory."
        ),
    )
    after_cut: HookWords | None = Field(
        default=None,
        description=(
            "Program and arguments, run once the cut is taken or given up, whenever "
            "`before_cut` was begun: it undoes that. It may be run twice, and where "
            "there is nothing to undo."
        ),
    )
    timeout_seconds: Annotated[Seconds, time_bounds("100ms", "10m")] = Field(
        default=written("10s"),
        alias="timeout",
        description="What each of them gets; then it is ended, with all it started.",
    )
    on_failure: Annotated[
        Literal["skip", "cut", "alarm"], json_text("skip, cut or alarm")
    ] = Field(
        default="alarm",
        description=(
            'When `before_cut` fails: "alarm" cuts all the same and raises the alarm '
            '`hook_failed`; "cut" cuts and only logs it; "skip" makes no cut, raises '
            "the alarm, and tries again."
        ),
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.before_cut is None and self.after_cut is None:
            raise ValueError("there is no hook in it: give before_cut or after_cut")
        return self
