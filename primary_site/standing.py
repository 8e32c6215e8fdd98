"""A FlashCopy relation and its target."""

from __future__ import annotations

from common.ports import File
from common.storage.flashcopy import Relation


class Standing:
    """A relation and the file that holds its preserved tracks.

    `blank`: the file held nothing when the relation was established, so a track
    that is not written there reads as zeroes.
    """

    __slots__ = ("blank", "relation", "target")

    def __init__(self, relation: Relation, target: File, *, blank: bool) -> None:
        self.relation = relation
        self.target = target
        self.blank = blank
