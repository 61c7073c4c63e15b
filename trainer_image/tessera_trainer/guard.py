"""The loss guard of a training: looks at each step before its update is applied, and says what to do (design.md §2.5).

Owns the guard's state and the run's history of going back. The rule is `guard_rule`'s; what is decided depends on the
numbers, the state in the checkpoint and the log alone, so all ranks decide alike, and a generation that begins in the
middle of it goes on with it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tessera_run import Rewound
from tessera_trainer.guard_rule import GuardState, Looked, Rule, Verdict, taken

BEFORE = 100
"""Training goes back at least so many steps before an onset; what was consumed since is left out,"""
BEYOND = 200
"""and so many steps' worth of data after the alarm: the batches that come with a spike are rarely one (PaLM,
arXiv:2204.02311, section 5.1)."""
SAME_PLACE = 500
"""A rise so many steps after an alarm, or fewer, is the same one again."""
MOST_REWINDS = 8
"""Of one run; more means that the recipe is wrong."""


class LossDiverged(ArithmeticError):
    """Going back did not help: a person has to change the recipe."""


@dataclass(frozen=True)
class GoBack:
    """Training goes back to step `to_step` or the newest checkpoint before; the data from step `skip_from` on is left
    out."""

    to_step: int
    skip_from: int
    slower: bool


class LossGuard:
    """See the module. With `acts` False it only tells, once where something begins, but for numbers that are none."""

    def __init__(self, rule: Rule, rewinds: tuple[Rewound, ...], *, acts: bool = True) -> None:
        self._rule, self._rewinds, self._acts = rule, rewinds, acts
        self._state = GuardState()
        self._telling = False
        self.looked = Looked(Verdict.TAKE, self._state)
        """What came of the newest step."""

    def begin(self, text: str) -> None:
        """Goes on from what a checkpoint holds; nothing: from nothing."""
        self._state = GuardState.model_validate_json(text) if text else GuardState()

    def text(self) -> str:
        """For the checkpoint."""
        return self._state.canonical().decode()

    def accepts(self, step: int, loss: float, norm: float) -> bool:
        """Whether the update of `step` is to be applied."""
        before, self.looked = self._state, self._rule.look(self._state, step, loss, norm)
        if not self._acts and self.looked.verdict is not Verdict.TAKE and math.isfinite(loss) and math.isfinite(norm):
            told, self._telling = self._telling, True
            self.looked = Looked(Verdict.TAKE, taken(before, loss, norm), words="" if told else self.looked.words)
        elif self.looked.verdict is Verdict.TAKE:
            self._telling = False
        self._state = self.looked.state
        return self.looked.verdict is Verdict.TAKE

    def plan(self, step: int) -> GoBack:
        """How to go back from `step`, at which `looked` says that it must be. Raises LossDiverged."""
        if not self._acts:
            remedy = "look at training.learningRate and the data, or let the guard act (training.lossGuard: Act)"
            raise LossDiverged(f"step {step}: {self.looked.words}; {remedy}")
        onset = self.looked.onset
        again = [one for one in self._rewinds if one.to_step <= onset <= one.from_step + SAME_PLACE]
        if len(again) >= 2 or len(self._rewinds) >= MOST_REWINDS:
            tried = f"training went back {len(self._rewinds)} times, {len(again)} of them to before this place"
            remedy = "lower training.learningRate or training.clipNorm, or look at the data around this step"
            raise LossDiverged(f"step {step}: {self.looked.words}; {tried}; {remedy}")
        behind = max(0, onset - BEFORE)
        return GoBack(to_step=behind, skip_from=behind, slower=bool(again))

    def rate_share(self, step: int) -> float:
        """Of the schedule's learning rate, for the step after `step`: half of it after each time that asked for it."""
        return float(0.5 ** sum(1 for one in self._rewinds if one.slower and step >= one.to_step))
