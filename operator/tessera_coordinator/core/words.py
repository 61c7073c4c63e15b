"""What a node is told at the turning points of its life in the run. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from tessera_api.exit_codes import ExitCode
from tessera_api.messages import Assign, Closed, Join, Restart, Verdict, VerdictWord
from tessera_coordinator.core.effects import Close, Send
from tessera_coordinator.core.nodes import Node
from tessera_coordinator.core.seating import Seating


def assign(node: Node, seating: Seating, join: Join) -> Send:
    """You are in this generation."""
    return Send(node.name, Assign(seat=seating.seat(node.name), join=join.sequence))


def again(node: Node, generation: int, reason: str) -> Send:
    """That generation is over for you: stop your workers and join again."""
    return Send(node.name, Restart(generation=generation, reason=reason[:2000]))


def redo(node: Node, generation: int) -> Send:
    """You had finished, but another had not: do it again."""
    return Send(node.name, Verdict(generation=generation, say=VerdictWord.REDO))


def over(members: Iterable[Node], generation: int, reason: str) -> list[Send]:
    """To all who have not said by themselves that they have stopped: that generation is over."""
    anew = Restart(generation=generation, reason=reason[:2000])
    return [
        redo(node, generation) if node.finished == generation else Send(node.name, anew)
        for node in members
        if node.finished == generation or node.join is None
    ]


def farewell(closing: Close, node: Node) -> Send:
    """The run is over: a node that has finished a completed run may go, any other stops its workers and leaves."""
    if node.finished and closing.exit_code is ExitCode.DONE:
        return Send(node.name, Verdict(generation=node.finished, say=VerdictWord.GO))
    return Send(node.name, Closed(reason=closing.reason[:2000], exit_code=closing.exit_code))
