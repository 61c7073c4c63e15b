"""What a run's log says: a pure fold over its entries, and the rules that tie them together (design.md §2.0).

A writer folds every entry before the number that it wants, asks `apply` whether its own may follow, and creates it at
exactly that number. So each entry is judged against the very history it stands in, and a legal log stays legal,
whatever is paused, late or doubled.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import assert_never

from tessera_api.checkpoint import CheckpointPrefix, parse_prefix
from tessera_api.log import Claim, Commit, End, Entry, Open, ResumePoint, Retire, Rewind, Rewound, Skip, Skipped


class IllegalEntry(Exception):
    """An entry may not follow the history that it was put to: a bug of its writer, or a log that others wrote to."""


@dataclass(frozen=True, slots=True)
class Retired:
    """A commit that was given up. A step can be committed again by a later generation, after a rewind."""

    step: int
    generation: int


@dataclass(frozen=True, slots=True)
class History:
    """A run as its first `length` log entries tell it."""

    length: int = 0
    term: int = 0
    """The last claimed term; 0 before the first claim."""
    holder: str = ""
    """Who claimed it."""
    slot: str | None = None
    """Which of the run's coordinators that is."""
    open: Open | None = None
    """The last open: generation, members, nonce, resume point."""
    commits: tuple[Commit, ...] = ()
    """The checkpoints that can be resumed from, by step ascending; the newest is the last."""
    retired: tuple[Retired, ...] = ()
    """What retire entries gave up, in their order."""
    skips: tuple[Skip, ...] = ()
    rewinds: tuple[Rewind, ...] = ()
    reopen: bool = False
    """Whether the run was rewound since the last open: the open generation no longer computes what the log says."""
    ended: End | None = None

    @property
    def newest(self) -> Commit | None:
        """The checkpoint to resume from."""
        return self.commits[-1] if self.commits else None

    @property
    def generation(self) -> int:
        """The last opened generation; 0 before the first."""
        return self.open.generation if self.open is not None else 0

    def left_out(self) -> tuple[Skipped, ...]:
        """The positions that are not trained on, in the order in which they were given up."""
        skips = tuple(Skipped(first=skip.first, last=skip.last) for skip in self.skips)
        return skips + tuple(rewind.skip for rewind in self.rewinds if rewind.skip is not None)

    def went_back(self) -> tuple[Rewound, ...] | None:
        """How the run went back before; None: never."""
        told = [Rewound(to_step=one.to_step, from_step=one.from_step, slower=one.slower) for one in self.rewinds]
        return tuple(told) or None

    def steps(self) -> tuple[int, ...]:
        """The steps of the commits that can be resumed from, ascending."""
        return tuple(commit.step for commit in self.commits)

    def allows(self, snapshot: ResumePoint) -> bool:
        """Whether a generation may begin from these parts in memory, if they are there: they are the newest commit's,
        or newer and of the open generation, or what that began from."""
        newest, last = self.newest, self.open
        if newest is not None and (snapshot.step, snapshot.objects) == (newest.step, newest.objects):
            return True
        if last is None or self.reopen or (newest is not None and snapshot.step <= newest.step):
            return False
        if last.resume is not None and last.resume.objects == snapshot.objects:
            return True
        own = CheckpointPrefix(step=snapshot.step, term=last.term, generation=last.generation, nonce=last.nonce)
        inside = all(parse_prefix(part.name) == own for part in snapshot.objects)
        return inside and len(snapshot.objects) == last.world_size()

    def apply(self, number: int, entry: Entry) -> History:
        """The history with `entry` as number `number`. Raises IllegalEntry, whose text names the rule."""
        _require(number == self.length + 1, number, entry, f"entry {self.length} comes before it")
        _require(self.ended is None, number, entry, "the run has ended")
        return replace(self._follow(number, entry), length=number)

    def _follow(self, number: int, entry: Entry) -> History:
        if isinstance(entry, Claim):
            _require(entry.term > self.term, number, entry, f"term {self.term} is claimed already")
            return replace(self, term=entry.term, holder=entry.holder, slot=entry.slot)
        _require(entry.term == self.term, number, entry, f"the last claimed term is {self.term}")
        match entry:
            case Open():
                return self._opened(number, entry)
            case Commit():
                return self._committed(number, entry)
            case Rewind():
                return self._rewound(number, entry)
            case Skip():
                _require(entry.generation == self.generation, number, entry, f"generation {self.generation} is open")
                _require(entry.first < entry.last, number, entry, "the span is empty")
                return replace(self, skips=(*self.skips, entry))
            case Retire():
                return self._retired(number, entry)
            case End():
                return replace(self, ended=entry)
            case _:
                assert_never(entry)

    def _opened(self, number: int, entry: Open) -> History:
        _require(entry.generation > self.generation, number, entry, f"generation {self.generation} was opened before")
        newest, resume = self.newest, entry.resume
        if resume is not None and resume.holders is not None:
            legal = resume.objects and self.allows(resume)
            _require(bool(legal), number, entry, f"no snapshot of step {resume.step} belongs to what is open")
        elif newest is None:
            _require(resume is None or resume.step == 0, number, entry, "there is no checkpoint to resume from")
        else:
            same = resume is not None and (resume.step, resume.objects) == (newest.step, newest.objects)
            _require(same, number, entry, f"it does not resume from the newest checkpoint, step {newest.step}")
        return replace(self, open=entry, reopen=False)

    def _committed(self, number: int, entry: Commit) -> History:
        _require(entry.generation == self.generation, number, entry, f"generation {self.generation} is open")
        _require(not self.reopen, number, entry, "the run was rewound and no generation was opened since")
        newest = self.newest
        _require(newest is None or entry.step > newest.step, number, entry, "a later step is committed already")
        return replace(self, commits=(*self.commits, entry))

    def _rewound(self, number: int, entry: Rewind) -> History:
        _require(entry.generation == self.generation, number, entry, f"generation {self.generation} is open")
        _require(entry.to_step <= entry.from_step, number, entry, "it goes forward")
        known = entry.to_step == 0 or entry.to_step in self.steps()
        _require(known, number, entry, f"there is no checkpoint of step {entry.to_step}")
        _require(entry.skip is None or entry.skip.first < entry.skip.last, number, entry, "the span is empty")
        kept = tuple(commit for commit in self.commits if commit.step <= entry.to_step)
        return replace(self, commits=kept, rewinds=(*self.rewinds, entry), reopen=True)

    def _retired(self, number: int, entry: Retire) -> History:
        steps, gone = self.steps(), frozenset(entry.steps)
        _require(len(gone) == len(entry.steps), number, entry, "a step is named twice")
        _require(gone.issubset(steps), number, entry, f"not all of {entry.steps} are among the checkpoints {steps}")
        _require(steps[-1] not in gone, number, entry, f"step {steps[-1]} is the newest checkpoint")
        kept = tuple(commit for commit in self.commits if commit.step not in gone)
        given_up = tuple(Retired(commit.step, commit.generation) for commit in self.commits if commit.step in gone)
        return replace(self, commits=kept, retired=(*self.retired, *given_up))


def fold(entries: Iterable[Entry]) -> History:
    """The history that `entries`, numbered from 1, tell. Raises IllegalEntry at the first that breaks a rule."""
    history = History()
    for number, entry in enumerate(entries, start=1):
        history = history.apply(number, entry)
    return history


def _require(holds: bool, number: int, entry: Entry, rule: str) -> None:
    if not holds:
        raise IllegalEntry(f"log entry {number} ({entry.kind} of term {entry.term}) is not legal: {rule}")
