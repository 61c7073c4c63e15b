"""What a training program sees of Tessera (design.md §2.4): standard library only, usable by any script.

    import tessera_run

    with tessera_run.connect() as run:
        start = run.resume()                      # None: from the beginning
        for step in range(start.step + 1 if start else 1, steps + 1):
            ...
            run.step(step, tokens, loss, grad_norm=norm)
            if run.should_stop():                 # all ranks must agree before they act on it
                run.commit(step, position, parts); run.park(step)

Level 0 imports nothing and gets restarts and spares; level 1 reports steps; level 2 resumes and commits. Without
Tessera around it every call is a no-op, so that the same script runs alone.
"""

from tessera_run.failure import is_collective_error, place_of
from tessera_run.resume import Holder, Part, Resume
from tessera_run.run import NotCommitted, Rewound, Run, Span, Stop, connect

__all__ = [
    "Holder",
    "NotCommitted",
    "Part",
    "Resume",
    "Rewound",
    "Run",
    "Span",
    "Stop",
    "connect",
    "is_collective_error",
    "place_of",
]
