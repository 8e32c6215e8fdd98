"""What all crash explorers share: look at every step, recover every image, count.

An explorer runs some of the product's code on a `CrashDisk` and keeps a model of its
own of what was promised. At every write, flush and change of a name it takes images,
has the product recover each, and compares. On some of them recovery is crashed at
each of its own steps and run again.
"""

from __future__ import annotations

import contextlib
import random
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.support.crash.disk import OLD, CrashDisk
from tests.support.crash.power import describe, image, power_cuts, unflushed
from tests.support.disk_in_memory import Lies


class ViolationError(AssertionError):
    """A promise does not hold in some crash image."""


class NothingToRecover(Exception):  # noqa: N818 - no error: the image is from too early
    """No promise was made yet that this image could break."""


@dataclass(slots=True)
class Tally:
    """What one run looked at. `distinct` holds the digests of all images."""

    steps: int = 0
    tried: int = 0
    recoveries: int = 0
    recovery_crashes: int = 0
    kills: int = 0
    distinct: set[int] = field(default_factory=set)


class Exploration:
    """One seeded run of one component. Deterministic: a seed is a run, to the byte.

    A subclass sets `disk`, runs its component, calls `promised` whenever what
    recovery has to find has changed, and overrides `recover`.
    """

    COMPONENT = ""
    DEEP_SHARE = 0.02
    """Of the images, those whose recovery is crashed at each of its own steps."""

    DEEP_IMAGES = 4
    """Taken at each step of such a recovery."""

    RAISES = True
    """A problem ends the run where it is met. False where the product would catch it
    (a job of a thread): the run has to look at `problem` itself."""

    KILL_SHARE = 0.05
    """Of the steps, those at which a SIGKILL is tried as well."""

    def __init__(
        self, seed: int, *, images_per_step: int, lies: Lies | None = None
    ) -> None:
        self.seed = seed
        self.rng = random.Random(f"{self.COMPONENT} {seed}")
        self.cut_rng = random.Random(f"{self.COMPONENT} {seed} cuts")
        self.images_per_step = images_per_step
        self.lies = lies
        self.tally = Tally()
        self.problem: str | None = None
        self.is_clean_cut = True
        """No sector of the image now being recovered is torn or trashed."""
        self._is_looking = False
        self._held: set[int] = set()
        """Digests of images that held, promises being what they are."""

    # -- for subclasses ----------------------------------------------------------------

    def new_disk(self, *, ignored: str = "") -> CrashDisk:
        disk = CrashDisk(
            self.rng.choice((512, 512, 4096)),
            ignored=ignored,
            knows_holes=self.rng.random() < 0.8,
        )
        disk.lies = self.lies
        return disk

    def watch(self, disk: CrashDisk) -> None:
        """Explore this disk from here on; what it held is as after a power cut."""
        self.disk = disk
        disk.hook = self.at_step
        self.promised()

    def promised(self) -> None:
        """What recovery has to find is another thing now: look at all images anew."""
        self._held = set()

    def recover(self, disk: CrashDisk) -> None:
        """Recover with the product's code; raise `ViolationError` where it is wrong.

        Any other error of the product is a violation, too: recovery never fails.
        """
        raise NotImplementedError

    def go_on_from(self, disk: CrashDisk) -> None:
        """Recover a disk and use it further: what was recovered has to be usable.

        Its own steps are explored already as those of a recovery.
        """

    # -- the run -----------------------------------------------------------------------

    def run(self) -> None:
        """Run the component; raises `ViolationError` with the way to see it again."""
        with seeded_secrets(self.rng):
            self.explore()
        self.raise_problem()

    def explore(self) -> None:
        raise NotImplementedError

    def raise_problem(self) -> None:
        if self.problem is not None:
            raise ViolationError(self.problem)

    def some_power_cut(self) -> CrashDisk:
        """Return an image to go on from."""
        units = unflushed(self.disk)
        cuts = list(power_cuts(units, self.rng, 6))
        return image(self.disk, units, self.rng.choice(cuts), self.rng)

    # -- looking -----------------------------------------------------------------------

    def at_step(self, operation: str, path: str) -> None:
        """The disk's hook. After the first problem nothing is looked at any more."""
        if self._is_looking or self.problem is not None:
            return
        self._is_looking = True
        try:
            self._look(f"{operation} {path}")
        finally:
            self._is_looking = False
        if self.RAISES:
            self.raise_problem()

    def _look(self, step: str) -> None:
        self.tally.steps += 1
        units = unflushed(self.disk)
        for cut in power_cuts(units, self.cut_rng, self.images_per_step):
            taken = image(self.disk, units, cut, self.cut_rng)
            if self._has_held(taken):
                continue
            self.is_clean_cut = min(cut, default=OLD) >= OLD
            if self.cut_rng.random() < self.DEEP_SHARE:
                self._look_into(taken)
            if not self._holds(taken):
                self._tell(step, describe(units, cut))
                return
        if self.cut_rng.random() < self.KILL_SHARE:
            self.tally.kills += 1
            self.is_clean_cut = True
            killed = self.disk.after_kill()
            self._look_into(killed)
            if not self._holds(killed):
                self._tell(step, "SIGKILL")

    def _has_held(self, taken: CrashDisk) -> bool:
        """Count an image; tell whether the same one has held under these promises."""
        digest = taken.digest()
        self.tally.tried += 1
        self.tally.distinct.add(digest)
        if digest in self._held:
            return True
        self._held.add(digest)
        return False

    def _look_into(self, taken: CrashDisk) -> None:
        taken.hook = lambda at, path: self._look_deeper(taken, f"{at} {path}")

    def _holds(self, taken: CrashDisk) -> bool:
        """Recover an image; where that is looked at in its turn, go on from it, too."""
        held = self._held
        if taken.hook is not None:
            self._held = set()
        try:
            with contextlib.suppress(NothingToRecover):
                self.recover(taken)
                self.tally.recoveries += 1
                if taken.hook is not None:
                    self.go_on_from(taken)
        except Exception as error:  # noqa: BLE001 - whatever recovery raises is wrong
            self.problem = self.problem or f"{type(error).__name__}: {error}"
        finally:
            taken.hook, self._held = None, held
        return self.problem is None

    def _look_deeper(self, recovering: CrashDisk, step: str) -> None:
        """Crash a recovery at one of its steps, and recover again."""
        if self.problem is not None:
            return
        was = self.is_clean_cut
        units = unflushed(recovering)
        for cut in power_cuts(units, self.cut_rng, self.DEEP_IMAGES):
            taken = image(recovering, units, cut, self.cut_rng)
            if self._has_held(taken):
                continue
            self.tally.recovery_crashes += 1
            self.is_clean_cut = was and min(cut, default=OLD) >= OLD
            if not self._holds(taken):
                self.problem = f"{self.problem}\n  in recovery, {step}; " + describe(
                    units, cut
                )
                break
        self.is_clean_cut = was
        self.raise_problem()

    def _tell(self, step: str, left: str) -> None:
        self.problem = (
            f"{self.problem}\n  at step {self.tally.steps}, {step}; {left}"
            f"\n  again: python -m tests.crash.hunt --component {self.COMPONENT}"
            f" --seed {self.seed}"
        )


@contextlib.contextmanager
def seeded_secrets(rng: random.Random) -> Iterator[None]:
    """Let the identities that the product draws come from a run's own seed."""
    was = secrets.token_bytes
    chance = random.Random(rng.random())

    def token_bytes(nbytes: int | None = None) -> bytes:
        return chance.randbytes(nbytes or 32)

    secrets.token_bytes = token_bytes
    try:
        yield
    finally:
        secrets.token_bytes = was
