"""The checkpoint part: when to save, where to, and what to tell the run. The bytes are `checkpoint` and `restore`'s
matter.

What must stay true: a storage that is out never stops training and never ends it. A save that it did not take is said
once and given up; the newest state is saved at the next due step. Only `finish` waits, since nothing may follow before
its commit. Nothing here is collective: what ranks must agree on, `loop` lets them agree on.
"""

from __future__ import annotations

import time

from tessera_api.checkpoint import CheckpointPrefix
from tessera_api.log import StoredObject
from tessera_run import NotCommitted, Part, Resume, Run
from tessera_store import Store
from tessera_trainer.checkpoint import CheckpointFailed, CheckpointWriter
from tessera_trainer.optimiser import AdamW
from tessera_trainer.outage import COMMIT_LIMIT_SECONDS, READ_LIMIT_SECONDS, Waiting, outlast
from tessera_trainer.part_file import Progress
from tessera_trainer.restore import restore

SAVE_LIMIT_SECONDS = 5.0
"""How long training stands still at a due step for a save that is not through yet; then this step's is left out."""
NOTHING = -1
AT_THE_END = Waiting(COMMIT_LIMIT_SECONDS)


class Saver:
    """Saves every `every` steps and at the end; each part is reported once it is stored."""

    def __init__(self, run: Run, optimiser: AdamW, store: Store, every: int, waiting: Waiting = AT_THE_END) -> None:
        self._run, self._optimiser, self._store, self._every = run, optimiser, store, every
        self._waiting = waiting
        self._writer = CheckpointWriter(store, rank=run.rank, ranks=run.world_size, limit_s=waiting.limit_s)
        self._saved = NOTHING
        """The step of the last save that is written, committed or on its way."""
        self._failures = 0
        """Saves in a row that the storage did not take."""

    def due(self, step: int, total_steps: int) -> bool:
        """Whether a checkpoint of this step is wanted."""
        return step % self._every == 0 or step == total_steps

    def restore(self, resume: Resume | None) -> Progress:
        """Fill weights and moments from the checkpoint that was handed out; without one training begins."""
        if resume is None:
            return Progress(step=0, position=0, updates=0)
        objects = [StoredObject(name=part.name, size=part.size, sha256=part.sha256) for part in resume.objects]
        progress = outlast(
            self._run,
            f"reading the checkpoint of step {resume.step}",
            lambda: restore(objects, self._store, list(self._optimiser.state())),
            Waiting(READ_LIMIT_SECONDS),
        )
        self._optimiser.updates = progress.updates
        self._saved = progress.step
        return progress

    def check(self) -> None:
        """Hears of a save in the background that has failed: not only when the next one is due. Raises
        CheckpointFailed where that was not the storage's doing."""
        if not self._writer.busy:
            self._hear(0.0)

    def free(self) -> bool:
        """Whether a save can begin now; waits a little for one that is under way. Ranks differ in it: agree on it."""
        self._hear(SAVE_LIMIT_SECONDS)
        return not self._writer.busy

    def save(self, progress: Progress) -> None:
        """Begin to save. To be called when `free` is true on all ranks."""
        run, began = self._run, time.monotonic()
        prefix = CheckpointPrefix(step=progress.step, term=run.term, generation=run.generation, nonce=run.nonce)

        def stored(part: StoredObject, stall_s: float) -> None:
            mine = [Part(part.name, part.size, part.sha256)]
            run.commit(progress.step, progress.position, mine, time.monotonic() - began, stall_s)

        self._writer.save(list(self._optimiser.state()), progress, prefix, stored)
        self._saved = progress.step

    def finish(self, progress: Progress) -> None:
        """Until the checkpoint of this very step is committed, through outages of the storage. A part that it did not
        take is written again, under the same name with the same bytes. Raises NotCommitted, and CheckpointFailed where
        it was not the storage's doing."""
        waiting, pause = self._waiting, self._waiting.first_s
        end = waiting.clock() + waiting.limit_s
        self._hear(waiting.limit_s)
        while True:
            if self._saved != progress.step:
                self.save(progress)
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
