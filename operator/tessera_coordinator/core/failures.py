"""The table of failures: from what is seen of a generation's end to its class, and from the class to what the run does
about it, and how often (design.md §2.1). Pure; nothing else decides it.

What must stay true: infrastructure alone never ends a run; of a cause that a program may have, the run ends only where
it came back, without a new best step, after everything that a class allows was tried.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from tessera_api.exit_codes import ExitCode
from tessera_api.failure import FailureClass, Rung


class Sign(Enum):
    """What was seen."""

    PROGRAM = "a trainer ended"
    """By an exception, an exit code or a signal: the place says which."""
    COLLECTIVE = "a collective broke"
    STORAGE = "the storage was out"
    LOST = "a node was lost"
    LEFT = "a node left"
    HANG = "nothing was computed"
    REWOUND = "training went back"
    QUIET = "trainers ended without a word"


@dataclass(frozen=True)
class Row:
    """Where `sign` was seen and `text` is found in the place and words, it is a failure of this class."""

    sign: Sign
    failure: FailureClass
    text: str = ""
    permanent: bool = False
    """Whether another try cannot help: the run ends at once."""


TABLE = (
    Row(Sign.PROGRAM, FailureClass.USER_ERROR, rf"\Aexit code {ExitCode.WRONG_INPUT.value}\n", permanent=True),
    Row(Sign.PROGRAM, FailureClass.DEVICE_OUT_OF_MEMORY, r"\b(CUDA|HIP|XPU) out of memory|OutOfMemoryError"),
    Row(
        Sign.PROGRAM,
        FailureClass.OUT_OF_MEMORY,
        r"\Aout of memory|\bMemoryError\b|DefaultCPUAllocator|DataLoader worker .* Killed",
    ),
    Row(
        Sign.PROGRAM,
        FailureClass.SICK_DEVICE,
        r"uncorrectable|\bECC error|\bXid\b|off the bus|NVLink.* error|devices? unavailable|no CUDA-capable device",
    ),
    Row(Sign.PROGRAM, FailureClass.SICK_DEVICE, r"\bSickDevice\b"),
    Row(Sign.PROGRAM, FailureClass.LOSS_SPIKE, r"\bLossDiverged\b", permanent=True),
    Row(Sign.PROGRAM, FailureClass.USER_ERROR, r"\bForeignModel\b", permanent=True),
    Row(Sign.PROGRAM, FailureClass.WORKER_CRASH),
    Row(Sign.STORAGE, FailureClass.STORAGE),
    Row(Sign.LOST, FailureClass.LOST_NODE),
    Row(Sign.LEFT, FailureClass.PREEMPTION, r"\btold to end\b"),
    Row(Sign.LEFT, FailureClass.SICK_DEVICE, r"^unfit: .*\bdevice"),
    Row(Sign.LEFT, FailureClass.UNKNOWN),
    Row(Sign.HANG, FailureClass.HANG),
    Row(Sign.REWOUND, FailureClass.NON_FINITE, r"(?i)non-?finite|\bnan\b|\binf(inite)?\b"),
    Row(Sign.REWOUND, FailureClass.LOSS_SPIKE),
    Row(Sign.COLLECTIVE, FailureClass.UNKNOWN),
    Row(Sign.QUIET, FailureClass.UNKNOWN),
)


def row_of(sign: Sign, place: str, words: str) -> Row:
    """The first that fits."""
    text = f"{place}\n{words}"
    return next(row for row in TABLE if row.sign is sign and re.search(row.text, text, re.MULTILINE))


@dataclass(frozen=True)
class Policy:
    """What is done about a class."""

    rungs: tuple[Rung, ...]
    """For the first failure, the second of the same cause without a new best step, and so on; the last one for all
    after it."""
    tries: int | None
    """The run ends with so many failures at the last rung. None: it never ends for this."""
    remedy: str = ""

    def rung(self, count: int) -> Rung:
        """For the `count`-th failure in a row, from 1."""
        over = self.tries is not None and count >= len(self.rungs) + self.tries - 1
        return Rung.END if over else self.rungs[min(count, len(self.rungs)) - 1]


_WHOLE = (Rung.RESTART, Rung.RE_FORM, Rung.REPLACE, Rung.ELSEWHERE)
_FAULT = "mend this, then start the run again"
_SMALLER = "lower training.unit or data.sequenceLength, or take nodes with more memory"

POLICIES = {
    FailureClass.WORKER_CRASH: Policy(_WHOLE, 3, _FAULT),
    FailureClass.USER_ERROR: Policy((Rung.RESTART,), 3, _FAULT),
    FailureClass.OUT_OF_MEMORY: Policy((Rung.RESTART,), 3, _SMALLER),
    FailureClass.DEVICE_OUT_OF_MEMORY: Policy((Rung.RESTART,), 3, _SMALLER),
    # A node that hung proves itself before it is trusted again, and so does one of which nobody knows what it had.
    FailureClass.HANG: Policy((Rung.RE_FORM, Rung.REPLACE, Rung.ELSEWHERE), 3, _FAULT),
    FailureClass.UNKNOWN: Policy((Rung.RE_FORM,), None),
    FailureClass.SICK_DEVICE: Policy((Rung.REPLACE, Rung.ELSEWHERE), None),
    # The node is gone already: whoever keeps the run's nodes brings another.
    FailureClass.LOST_NODE: Policy((Rung.REPLACE,), None),
    FailureClass.PREEMPTION: Policy((Rung.REPLACE,), None),
    FailureClass.STORAGE: Policy((Rung.RESTART,), None),
    FailureClass.LOSS_SPIKE: Policy((Rung.RESTART,), None, "change the recipe, as it says"),
    FailureClass.NON_FINITE: Policy((Rung.RESTART,), None),
}
"""Every class has one."""


def counts(failure: FailureClass) -> bool:
    """Whether it can end a run: a program may be at fault."""
    return POLICIES[failure].tries is not None
