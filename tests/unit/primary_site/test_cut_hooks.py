"""Hooks around a cut, as real programs: their order, limits, and what is left."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from common.service.clock import SystemClock
from common.service.config_hooks import HooksTable
from common.storage.files import SystemFiles
from common.storage.record import DurableRecord
from common.storage.threads import WorkerThreads
from primary_site.alarms import Alarms
from primary_site.cut_hooks import CutHooks, HookFailedError
from primary_site.group import Cut, CutStarvedError
from primary_site.hook_process import OUTPUT_BYTES_MAX, HookProcess
from tests.support.daemon import until

CUT = Cut(8, b"\7" * 16, 10**18, 0.001, None)
TELL = 'echo "$FARSHORE_PHASE $FARSHORE_CYCLE $FARSHORE_RESULT" >>'
LONG = 600


class Bench:
    """Hooks of a group, and the order of what happened."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.said = directory / "said"
        self.alarms = Alarms(SystemClock())
        self.made: list[CutHooks] = []

    def tell(self, more: str = "") -> list[str]:
        """Return a hook that writes its phase, cycle and result to `said`."""
        return ["/bin/sh", "-c", f"{TELL} {self.said}\n{more}"]

    def hooks(self, **table: Any) -> CutHooks:
        """As a process of the daemon has them; the note on disk is everybody's."""
        given = {"after_cut": self.tell(), **table}
        made = CutHooks(
            "g",
            HooksTable.model_validate(given),
            DurableRecord(str(self.directory / "hook.record"), SystemFiles()),
            WorkerThreads("hooks", 1),
            self.alarms,
        )
        self.made.append(made)
        return made

    async def cut(self, hooks: CutHooks, fails: Exception | None = None) -> Cut:
        async def make() -> Cut:
            with self.said.open("a") as said:
                print("cut", file=said)
            if fails is not None:
                raise fails
            return CUT

        return await hooks.around(8, "nightly", make)

    def lines(self) -> list[str]:
        return self.said.read_text().split("\n")[:-1] if self.said.exists() else []

    async def has_said(self, *lines: str) -> None:
        await until(lambda: self.lines() == list(lines), f"{lines} in that order")

    def alarm(self, name: str) -> str | None:
        return {a.name: a.message for a in self.alarms.all()}.get(name)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    for hooks in bench.made:
        await hooks.close()


async def started(bench: Bench, **table: Any) -> CutHooks:
    hooks = bench.hooks(**table)
    await hooks.recover()
    return hooks


async def test_a_cut_lies_between_its_hooks(bench: Bench) -> None:
    hooks = await started(bench, before_cut=bench.tell())

    assert await bench.cut(hooks) is CUT

    await bench.has_said("before 8 ", "cut", "after 8 cut")
    assert bench.alarms.all() == []
    assert hooks.status().before_cut.runs == {"done": 1}


async def test_a_hook_knows_what_is_cut_and_nothing_of_our_environment(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/notify")
    show = ["/bin/sh", "-c", f"env | sort >{bench.said}"]
    await bench.cut(await started(bench, after_cut=show))
    await until(lambda: "FARSHORE_PHASE=after" in bench.lines(), "the hook ran")

    told = dict(line.partition("=")[::2] for line in bench.lines())
    ours = {name: told[name] for name in told if name.startswith("FARSHORE_")}
    assert ours == {
        "FARSHORE_GROUP": "g",
        "FARSHORE_CYCLE": "8",
        "FARSHORE_LABEL": "nightly",
        "FARSHORE_PHASE": "after",
        "FARSHORE_RESULT": "cut",
        "FARSHORE_CUT_TIME": "2001-09-09T01:46:40.000000Z",
    }
    assert "NOTIFY_SOCKET" not in told


@pytest.mark.parametrize("policy", ["alarm", "cut"])
async def test_a_failing_hook_lets_the_cut_be_made(bench: Bench, policy: str) -> None:
    failing = bench.tell("echo no such mount; exit 3")
    hooks = await started(bench, before_cut=failing, on_failure=policy)

    await bench.cut(hooks)

    await bench.has_said("before 8 ", "cut", "after 8 cut")
    told = bench.alarm("hook_failed")
    if policy == "cut":
        assert told is None
    else:
        assert told is not None
        assert "exit code 3: no such mount" in told


async def test_a_failing_hook_may_forbid_the_cut(bench: Bench) -> None:
    failing = bench.tell("exit 3")
    hooks = await started(bench, before_cut=failing, on_failure="skip")

    with pytest.raises(HookFailedError, match=r"no cut was made.*exit code 3"):
        await bench.cut(hooks)

    await bench.has_said("before 8 ", "after 8 no_cut")


async def test_an_alarm_ends_with_a_hook_that_succeeds(bench: Bench) -> None:
    once = f"[ -e {bench.directory}/well ]"
    hooks = await started(bench, before_cut=bench.tell(once))
    await bench.cut(hooks)
    assert bench.alarm("hook_failed")

    (bench.directory / "well").touch()
    await bench.cut(hooks)

    assert bench.alarm("hook_failed") is None


async def test_a_cut_that_is_not_made_is_followed_by_its_hook(bench: Bench) -> None:
    hooks = await started(bench, before_cut=bench.tell())

    with pytest.raises(CutStarvedError):
        await bench.cut(hooks, CutStarvedError("busy"))

    await bench.has_said("before 8 ", "cut", "after 8 no_cut")


async def test_a_hook_that_hangs_is_ended_with_all_it_started(bench: Bench) -> None:
    hang = f"sleep {LONG} & echo $! >{bench.directory}/child; trap '' TERM; wait; wait"
    hooks = await started(
        bench, before_cut=bench.tell(hang), timeout="300ms", on_failure="cut"
    )

    await bench.cut(hooks)

    await bench.has_said("before 8 ", "cut", "after 8 cut")
    assert hooks.status().before_cut.runs == {"timed_out": 1}
    child = int((bench.directory / "child").read_text())
    await until(lambda: not is_running(child), "what the hook started is gone")


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


async def test_a_program_that_is_not_there_is_a_failure(bench: Bench) -> None:
    missing = [str(bench.directory / "missing.sh")]
    hooks = await started(bench, before_cut=missing)

    await bench.cut(hooks)

    told = bench.alarm("hook_failed")
    assert told is not None
    assert "missing.sh: No such file or directory" in told


async def test_what_can_not_be_undone_is_an_alarm_until_it_is(bench: Bench) -> None:
    once = f"[ -e {bench.directory}/well ]"
    hooks = await started(
        bench, before_cut=bench.tell(), after_cut=["/bin/sh", "-c", once]
    )
    await bench.cut(hooks)
    await until(lambda: bench.alarm("after_cut_failed") is not None, "an alarm")

    (bench.directory / "well").touch()
    await bench.cut(hooks)

    await until(lambda: bench.alarm("after_cut_failed") is None, "no alarm")


async def test_other_programs_are_run_from_the_next_cut_on(bench: Bench) -> None:
    """What a `before_cut` has begun is undone by the `after_cut` that belongs to it."""
    hooks = await started(bench, before_cut=bench.tell())
    other = bench.tell(f"echo other >>{bench.said}")

    async def cut_amid_a_reload() -> Cut:
        hooks.follow(HooksTable.model_validate({"after_cut": other}))
        return CUT

    await hooks.around(8, None, cut_amid_a_reload)
    first = ["before 8 ", "after 8 cut"]
    await bench.has_said(*first)
    await bench.cut(hooks)
    await bench.has_said(*first, "cut", "after 8 cut", "other")


async def test_a_stop_in_the_middle_of_a_hook_undoes_it(bench: Bench) -> None:
    hooks = await started(
        bench, before_cut=bench.tell(f"sleep {LONG}"), timeout="10m", on_failure="cut"
    )
    cutting = asyncio.create_task(bench.cut(hooks))
    await bench.has_said("before 8 ")

    await hooks.close()

    assert bench.lines() == ["before 8 ", "after 8 no_cut"]
    with pytest.raises(HookFailedError):
        await cutting


async def test_what_a_killed_daemon_left_is_ended_and_undone_once(
    bench: Bench,
) -> None:
    """To the hooks, the daemon's end is a cut that never comes back."""
    left = f"sleep {LONG} </dev/null >/dev/null 2>&1 & echo $! >{bench.directory}/child"
    crashed = await started(bench, before_cut=bench.tell(left))
    never: Callable[[], Any] = asyncio.Event().wait
    cutting = asyncio.create_task(crashed.around(8, None, never))
    await until(lambda: crashed.status().before_cut.runs == {"done": 1}, "begun")
    child = int((bench.directory / "child").read_text())
    assert is_running(child), "what succeeds may leave something running"

    await started(bench, before_cut=bench.tell())

    await bench.has_said("before 8 ", "after  recovered")
    await until(lambda: not is_running(child), "what the hook left is gone")
    await bench.made[1].close()
    await started(bench, before_cut=bench.tell())
    await bench.made[2].close()
    assert bench.lines() == ["before 8 ", "after  recovered"]
    cutting.cancel()
    await asyncio.gather(cutting, return_exceptions=True)


async def test_a_note_that_can_not_be_read_counts_as_one(bench: Bench) -> None:
    (bench.directory / "hook.record").write_bytes(b"\xff" * (128 << 10))

    hooks = await started(bench, before_cut=bench.tell())

    await bench.has_said("after  recovered")
    await bench.cut(hooks)
    assert bench.lines()[1:3] == ["before 8 ", "cut"]


async def test_without_a_note_nothing_is_begun(bench: Bench) -> None:
    """On a disk that takes no note: an application would stay frozen after a crash."""
    hooks = bench.hooks(before_cut=bench.tell())
    (bench.directory / "hook.record").mkdir()
    await hooks.recover()
    await bench.has_said("after  recovered")

    await bench.cut(hooks)

    await bench.has_said("after  recovered", "cut", "after 8 cut")
    assert bench.alarm("hook_failed")


def test_a_program_that_talks_without_end_neither_blocks_nor_fills_memory() -> None:
    talk = ("/bin/sh", "-c", "head -c 3000000 /dev/zero | tr '\\0' x; echo; exit 4")

    end = HookProcess(talk, {}, float(LONG)).run()

    assert (end.outcome, end.exit_code) == ("failed", 4)
    assert end.output == "x" * OUTPUT_BYTES_MAX


def test_what_a_hook_leaves_running_does_not_keep_us() -> None:
    leave = ("/bin/sh", "-c", f"sleep {LONG} & echo $!")

    end = HookProcess(leave, {}, float(LONG)).run()

    assert end.outcome == "done"
    os.kill(int(end.output), 9)


def test_a_hook_does_not_inherit_what_we_have_open(tmp_path: Path) -> None:
    with (tmp_path / "device").open("wb") as device:
        os.set_inheritable(device.fileno(), True)
        end = HookProcess(("/bin/ls", "-l", "/proc/self/fd"), {}, 30.0).run()

    assert end.outcome == "done"
    assert str(tmp_path) not in end.output


@pytest.mark.parametrize("script", ["fsfreeze", "postgresql", "qemu-guest-agent"])
def test_a_shipped_hook_is_a_program_that_its_shell_can_read(script: str) -> None:
    path = Path(__file__).parents[3] / f"config/hooks/{script}.sh"

    assert os.access(path, os.X_OK)
    shell = path.read_text().splitlines()[0].removeprefix("#!")
    assert subprocess.run([shell, "-n", path]).returncode == 0
