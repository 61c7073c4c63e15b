"""torchrun's rendezvous back-end `tessera`: a generation is what the coordinator says it is (design.md §2.1).

Found by torchrun through the entry-point group `torchrun.handlers`. Owns the mapping between torchrun's agent and the
node's link: `next_rendezvous` returns once the coordinator has put this node into a generation; `num_nodes_waiting`,
called in the agent's loop every 0.1 s, must neither block nor raise; the store that the agent gets knows one thing,
the exit barrier, and asks the coordinator for it. Checked against torch 2.15.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Protocol

from torch.distributed import TCPStore
from torch.distributed.elastic.rendezvous.api import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
)

from tessera_api.exit_codes import ExitCode
from tessera_api.kept_part import Keeps
from tessera_api.messages import VerdictWord
from tessera_api.seat import Seat
from tessera_trainer.node_link import NodeLink, RunClosed

logger = logging.getLogger(__name__)


class Node(Protocol):
    """What the handler needs of the node that it runs on."""

    link: NodeLink

    def stop_workers(self) -> None:
        """SIGKILL every trainer of this node, now; does not wait."""

    def clear_workers(self) -> None:
        """Return once no trainer of this node is left, however long the kernel holds one."""

    def prove(self, in_full: bool) -> str:
        """Prove the node fit and return its numerics' fingerprint; ends the process if it is unfit. In full at least
        before its first offer."""

    @property
    def leaving(self) -> bool:
        """Whether this node was told to end: it trains no more."""

    def keeps(self) -> Keeps:
        """What this node holds in memory."""

    def explain(self, generation: Seat) -> None:
        """The workers ended, and nobody had said that they should: report why, if they have not done so."""

    def prepare_workers(self, generation: Seat) -> None:
        """Set what the workers of this generation inherit."""


class ExitBarrier:
    """All that torchrun's agent asks of its store with TORCH_ELASTIC_WORKER_IDENTICAL=1: `add` says that our workers
    succeeded, `wait` returns when the coordinator says that everybody's did. If the generation has to run again, the
    agent begins anew: it can't go back."""

    def __init__(self, finished: Callable[[], None], verdict: Callable[[], VerdictWord]) -> None:
        self._finished, self._verdict = finished, verdict
        self.timeout = timedelta(seconds=300)

    def set_timeout(self, timeout: timedelta) -> None:
        """Of no meaning here: the coordinator watches the others."""
        self.timeout = timeout

    def set(self, key: str, value: object) -> None:
        """torchrun marks the last member; nobody reads it."""

    def add(self, key: str, amount: int) -> int:
        """Our workers succeeded. Never the last one to say so: the coordinator decides."""
        if "terminal_state" not in key:
            raise NotImplementedError(
                f"torchrun asked its store for {key}; this torch version needs another exit barrier"
            )
        self._finished()
        return 0

    def wait(self, keys: list[str], *timeout: object) -> None:
        """Until go; on redo the agent's program is executed anew. Raises SystemExit with the run's exit code where
        the run was stopped or failed."""
        try:
            verdict = self._verdict()
        except RunClosed as closed:
            logger.info("the run is over: %s", closed)
            raise SystemExit(closed.exit_code) from closed
        if verdict is VerdictWord.REDO:
            logger.warning("this generation runs again after we had finished: starting the agent anew")
            sys.stdout.flush()
            sys.stderr.flush()
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


class TesseraRendezvous(RendezvousHandler):
    """See the module."""

    def __init__(self, node: Node, run: str) -> None:
        self._node, self._run = node, run
        self._server: TCPStore | None = None
        self._generation: Seat | None = None
        self._told: str | None = None

    def get_backend(self) -> str:
        """The back-end's name."""
        return "tessera"

    @property
    def use_agent_store(self) -> bool:
        """The agent of the first node hosts the TCPStore: it outlives the worker of rank 0."""
        return True

    def get_run_id(self) -> str:
        """The run's name."""
        return self._run

    def is_closed(self) -> bool:
        """Whether the run is over."""
        return self._node.link.closed is not None

    def set_closed(self) -> None:
        """The coordinator alone closes a run."""

    def num_nodes_waiting(self) -> int:
        """1 when the workers must be stopped. Then their sessions are killed here, so that the agent does not wait
        its 30 s for them."""
        why = self._node.link.restart_wanted()
        if why is None:
            return 0
        if why != self._told:
            self._told = why
            logger.info("stopping the workers: %s", why)
        self._node.stop_workers()
        return 1

    def next_rendezvous(self) -> RendezvousInfo:
        """The next generation that this node is in. Raises SystemExit with the run's exit code once the run is over:
        torchrun knows a graceful exit of its own, but torch 2.15 then fails on a result that is None."""
        ended = self._generation if self._node.link.restart_wanted() is None else None
        self._node.stop_workers()
        self._node.clear_workers()
        if ended is not None:
            self._node.explain(ended)
        self._node.link.leaving()
        self._server, self._told = None, None
        if self._node.leaving:
            logger.info("handed over: this node ends")
            raise SystemExit(ExitCode.STOPPED)
        server, held = self._offered()
        self._generation = held
        self._server = server if held.place == 0 else None
        self._node.prepare_workers(held)
        barrier: Any = ExitBarrier(self._report_finished, self._node.link.verdict)
        address = RendezvousStoreInfo(held.store.host, held.store.port)
        logger.info("generation %d: node %d of %d", held.generation, held.place, held.nodes)
        return RendezvousInfo(barrier, held.place, held.nodes, address)

    def _offered(self) -> tuple[TCPStore, Seat]:
        """Prove the node and offer it until it is taken. Raises SystemExit."""
        in_full = False
        while True:
            fingerprint = self._node.prove(in_full)
            # Bound before joining, so that its port can be sent with the join.
            server = TCPStore("0.0.0.0", 0, None, True, wait_for_workers=False)
            try:
                held = self._node.link.next_generation(server.port, fingerprint, self._node.keeps())
            except RunClosed as closed:
                logger.info("the run is over: %s", closed)
                raise SystemExit(closed.exit_code) from closed
            if held is not None:
                return server, held
            in_full = True

    def _report_finished(self) -> None:
        assert self._generation is not None
        self._node.link.finished(self._generation.generation)

    def shutdown(self) -> bool:
        """torchrun's agent ends, well or not: the node says so."""
        failure = sys.exc_info()[1]
        self._node.link.farewell(f"agent ends: {failure!r}"[:500] if failure else "agent ends")
        return True


_node: Node | None = None


def use_node(node: Node) -> None:
    """`agent.py` says which node this process is, before it calls torchrun."""
    global _node  # noqa: PLW0603 - torchrun calls the factory with strings only
    _node = node


def create(parameters: RendezvousParameters) -> RendezvousHandler:
    """torchrun's factory."""
    if _node is None:
        raise ValueError(
            "the back-end `tessera` runs under `python -m tessera_trainer.agent`, which sets the node up first"
        )
    return TesseraRendezvous(_node, parameters.run_id)


def creator() -> Callable[[RendezvousParameters], RendezvousHandler]:
    """The entry point: torchrun calls it without arguments and expects the factory."""
    return create
