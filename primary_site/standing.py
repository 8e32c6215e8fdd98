"""A FlashCopy relation and its target."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeVar

from common.ports import File, Threads
from common.storage.flashcopy import Relation

T = TypeVar("T")


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

    async def run(
        self, threads: Threads, job: Callable[[], T], beside: Sequence[Standing] = ()
    ) -> T:
        """Run a job that reads the target, which is not reused before it has ended.

        Nor are those of `beside`. That is so too where the caller is cancelled: the
        thread reads on.
        """
        relations = [each.relation for each in (self, *beside)]
        for relation in relations:
            relation.enter_reader()
        ended: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def done(result: T | None, error: BaseException | None) -> None:
            for relation in relations:
                relation.leave_reader()
            if ended.cancelled():
                return
            if error is not None:
                ended.set_exception(error)
            else:
                ended.set_result(result)  # type: ignore[arg-type]

        threads.submit(job, done)
        return await ended
