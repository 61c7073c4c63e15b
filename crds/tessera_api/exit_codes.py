"""What the exit codes of Tessera's programs mean."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Shared by the coordinator, the agent, the trainer, the data build and the command line."""

    DONE = 0
    BUG = 1
    """An unexpected exception: a traceback was printed."""
    WRONG_INPUT = 64
    """A manifest, dataset or option is wrong; the message says what to change. Trying again does not help."""
    UNAVAILABLE = 69
    """Storage or another service did not answer within its limit. Trying again may help."""
    TROUBLE = 70
    """The run ended without success; the message says why."""
    STOPPED = 75
    """Stopped on demand, with its last checkpoint committed or reported: the same command resumes."""
    IN_USE = 73
    """Another live process owns the run directory."""
    SUPERSEDED = 76
    """A coordinator saw a newer term: another one leads."""
    UNFIT = 77
    """The node failed its proof and did not join; the message names the check."""
    REPLACED = 78
    """The run has sent this node away: it failed again and again here, and goes on elsewhere."""
