"""The checkpoint part: when to save, where to, and what to tell the run. The bytes are the keeper's, `checkpoint`'s and
`restore`'s matter.

What must stay true: a storage that is out never stops training and never ends it. A save that it did not take is said
once and given up; the newest state is saved at the next due step. Only `finish` waits, since nothing may follow before
its commit. Nothing here is collective: what ranks must agree on, `loop` lets them agree on.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

from tessera_api.checkpoint import CheckpointPrefix
from tessera_keeper.keeping import Keeper
from tessera_keeper.part_file import Progress
from tessera_keeper.spare_memory import spare_memory
from tessera_run import NotCommitted, Resume, Run
from tessera_trainer.checkpoint import CheckpointFailed, CheckpointWriter, Ranks
from tessera_trainer.optimiser import AdamW
from tessera_trainer.outage import COMMIT_LIMIT_SECONDS, READ_LIMIT_SECONDS, Waiting, outlast
from tessera_trainer.restore import Readable, restore

SAVE_LIMIT_SECONDS = 5.0
"""How long training stands still at a due step for a save that is not through yet; then this step's is left out."""
WITH_MEMORY_SECONDS = 0.5
"""The same where the step is safe in memory without it."""
NOTHING = -1
AT_THE_END = Waiting(COMMIT_LIMIT_SECONDS)


class Saving(IntEnum):
    """What is done at a step. Ranks differ in what they can: all do the least."""

    NOTHING = 0
    STORE = 1
    """A checkpoint that does not stay in memory."""
    MEMORY = 2
    """A snapshot that nodes hold, for the next generation to begin from."""
    BOTH = 3


@dataclass(frozen=True)
class Rhythm:
    """Steps from one to the next."""

    checkpoint: int
    snapshot: int = 0
    """0: nothing stays in memory."""


class Saver:
    """Saves at due steps and at the end; each part is reported, by the keeper, once it is stored."""

    def __init__(
        self,
        run: Run,
        optimiser: AdamW,
        keeper: Keeper,
        rhythm: Rhythm,
        waiting: Waiting = AT_THE_END,
        spare: Callable[[], int] = spare_memory,
    ) -> None:
        self._run, self._optimiser, self._rhythm = run, optimiser, rhythm
        self._waiting = waiting
        place = Ranks(run.rank, run.world_size)
        self._writer = CheckpointWriter(
            keeper, place, limit_s=waiting.limit_s, remember=rhythm.snapshot > 0, spare=spare
        )
        self._saved = NOTHING
        """The step of the last save that is written, committed or on its way."""
        self._failures = 0
        """Saves in a row that the storage did not take."""
        self._alone_told = False
        self._measured = False
        """Whether there is memory enough was asked, once a generation."""

    def due(self, step: int, total_steps: int) -> Saving:
        """What is wanted at this step; the same on all ranks."""
        stored = step % self._rhythm.checkpoint == 0 or step == total_steps
        if not self._writer.remember:
            return Saving.STORE if stored else Saving.NOTHING
        if stored:
            return Saving.BOTH
        return Saving.MEMORY if step % self._rhythm.snapshot == 0 else Saving.NOTHING

    def restore(self, resume: Resume | None, source: Readable) -> Progress:
        """Fill weights and moments from what was handed out; without that training begins."""
        if resume is None:
            return Progress(step=0, position=0, updates=0)
        progress = outlast(
            self._run,
            f"reading the {'snapshot' if resume.holders else 'checkpoint'} of step {resume.step}",
            lambda: restore(resume.objects, source, list(self._optimiser.state())),
            Waiting(READ_LIMIT_SECONDS),
        )
        self._optimiser.updates = progress.updates
        self._saved = NOTHING if resume.holders else progress.step
        self._writer.begin_from(progress.step)
        return progress

    def check(self) -> None:
        """Hears of a save in the background that has failed: not only when the next one is due. Raises
        CheckpointFailed where that was not the storage's doing."""
        if not self._writer.busy:
            self._hear(0.0)

    def able(self, wanted: Saving) -> Saving:
        """How much of what is wanted can begin now; waits a little for a checkpoint before. Ranks differ in it: agree
        on the least."""
        can = self._can(wanted)
        self._tell_of_copies()
        return can

    def _can(self, wanted: Saving) -> Saving:
        if wanted is Saving.MEMORY:
            return wanted if self._writer.settled(0.0) and self._room() else Saving.NOTHING
        if wanted is Saving.BOTH and not self._room():
            wanted = Saving.STORE
        limit_s = WITH_MEMORY_SECONDS if wanted is Saving.BOTH else SAVE_LIMIT_SECONDS
        deadline = time.monotonic() + limit_s
        self._hear(limit_s)
        if not self._writer.settled(max(0.0, deadline - time.monotonic())):
            return Saving.NOTHING
        if self._writer.busy:
            return Saving.MEMORY if wanted is Saving.BOTH else Saving.NOTHING
        return wanted

    def save(self, progress: Progress, agreed: Saving = Saving.STORE) -> None:
        """Begin to save, as all ranks have agreed."""
        if agreed is Saving.STORE and self._writer.remember:
            self._writer.remember = False  # some node has no room, and what others hold is of no use alone
            if self._run.rank == 0:
                said = "a node has not enough free memory to hold snapshots; a restart goes back to the last checkpoint"
                self._run.note("NoSnapshots", said)
        self._save(progress, store=agreed is not Saving.MEMORY, whole=True)

    def _save(self, progress: Progress, store: bool, whole: bool) -> None:
        run = self._run
        prefix = CheckpointPrefix(step=progress.step, term=run.term, generation=run.generation, nonce=run.nonce)
        self._writer.save(list(self._optimiser.state()), progress, prefix, store=store, whole=whole)
        if store:
            self._saved = progress.step

    def _tell_of_copies(self) -> None:
        if self._writer.alone and not self._alone_told:
            self._alone_told = True
            said = "no other node holds this one's snapshot; if it is lost, training goes back to the last checkpoint"
            self._run.note("NoCopies", f"{said}: {self._writer.alone}")

    def _room(self) -> bool:
        self._measured = self._measured or self._writer.has_room(list(self._optimiser.state()))
        return self._measured

    def finish(self, progress: Progress) -> None:
        """Until the checkpoint of this very step is committed, through outages of the storage. A part that it did not
        take is written again, under the same name with the same bytes. Raises NotCommitted, and CheckpointFailed where
        it was not the storage's doing."""
        waiting, pause = self._waiting, self._waiting.first_s
        end = waiting.clock() + waiting.limit_s
        self._hear(waiting.limit_s)
        while True:
            if self._saved != progress.step:
                self._save(progress, store=True, whole=False)
            if self._hear(max(0.0, end - waiting.clock())) and not self._writer.busy:
                break
            if waiting.clock() + pause > end:
                raise NotCommitted(f"the storage did not take step {progress.step} within {waiting.limit_s:.0f} s")
            waiting.sleep(pause)
            pause = min(2 * pause, waiting.longest_s)
        self._run.wait_committed(progress.step, max(0.0, end - waiting.clock()))

    def _hear(self, limit_s: float) -> bool:
        """The outcome of the last save, waited for at most `limit_s`. False where the storage did not take it."""
        try:
            written = self._writer.drain(limit_s)
        except TimeoutError:
            return True  # it is still on its way
        except CheckpointFailed as failed:
            if not failed.by_storage:
                raise
            self._failed(failed)
            return False
        if written and self._failures:
            self._run.note("StorageBack", "checkpoints are stored again", failed_saves=self._failures)
            self._failures = 0
        return True

    def _failed(self, failed: CheckpointFailed) -> None:
        step, self._saved = self._saved, NOTHING
        self._failures += 1
        if self._failures == 1:
            said = f"the checkpoint of step {step} was not stored; training goes on, the next one is due as ever"
            self._run.note("StorageTrouble", f"{said}: {failed.__cause__}")
