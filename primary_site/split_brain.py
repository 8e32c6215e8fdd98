"""What a site that sends makes of one that says it serves the group, too.

On the group's loop. A site that was taken over from serves until it hears of that: it
does at its next contact, and so for some seconds it says of its taker what it would say
of any stranger. The taker knows better.
"""

from __future__ import annotations

from common.ports import Clock
from common.replication.lineage import ToldFork
from common.service.split_brain import ALARM, split_brain_text
from primary_site.alarms import Alarms
from primary_site.group_state import GroupState
from primary_site.not_yet import NotYet
from primary_site.switchover import Switchover


class SplitBrain:
    """Of one group: `split_from` of its switchover, and the alarm."""

    def __init__(self, switchover: Switchover, alarms: Alarms, clock: Clock) -> None:
        self.taken_from: bytes | None = None
        """The lineage that this site took over from; None: it sends from the first."""
        self.is_settled = False
        """The other site said that it serves, and has said since that it does not."""
        self._switchover = switchover
        self._alarms = alarms
        self._clock = clock
        self._unheard = NotYet()

    def told(self, told: ToldFork, state: GroupState) -> bool:
        """Take the answer of a site that serves; True if an operator has to choose.

        False while it is of the line that this site went on from, and may not have
        heard of that: then it is asked again soon. What stands already stays.
        """
        self.is_settled = False
        text = split_brain_text(
            state.group, told.fork, state.lineage, is_forked_here=False
        )
        if told.fork.lineage == self._went_on_from(state):
            now = self._clock.monotonic()
            self._unheard.told(text, now)
            if not self._unheard.waits_for_operator(now):
                return False
        self._switchover.split_from = told
        self._alarms.set(ALARM, text)
        return True

    def _went_on_from(self, state: GroupState) -> bytes | None:
        reclaimed = state.reclaimed
        return self.taken_from if reclaimed is None else reclaimed.fork.parent

    def not_yet(self) -> None:
        """The other site does not receive, and does not call it a split brain.

        Whoever did, and does no more, has ended its line, or is changing its role: it
        takes no write of a host.
        """
        if self._switchover.split_from is not None or self._stands():
            self.is_settled = True
            self._end()

    def over(self) -> None:
        """The other site receives from here, or has superseded this one."""
        self.is_settled = False
        self._end()

    def _stands(self) -> bool:
        return any(alarm.name == ALARM for alarm in self._alarms.all())

    def _end(self) -> None:
        self._switchover.split_from = None
        self._unheard.over()
        self._alarms.clear(ALARM)
