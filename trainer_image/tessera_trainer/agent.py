"""`python -m tessera_trainer.agent`: one node of a run: torchrun's agent with the back-end `tessera`, its warm
process and its trainers.

Owns the node's processes. All of them die with this one: the warm process by its parent's death, the trainers by the
warm process's, torchrun's thin clients by the end of their line. Exits with a code of `tessera_api.exit_codes`.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from tessera_api.drill import Drill
from tessera_api.exit_codes import ExitCode
from tessera_api.inspection import RankSeen
from tessera_api.kept_part import Keeps
from tessera_api.keys import ring_of
from tessera_api.messages import Leave, Processes
from tessera_api.resolved_run import ResolvedRun, read_resolved_run
from tessera_api.run_directory import RunDirectory
from tessera_api.seat import Seat
from tessera_api.training import Compilation
from tessera_api.trouble import Trouble, TroubleKind
from tessera_keeper.line import VARIABLE as KEEPER
from tessera_run.run import SOCKET_VARIABLE
from tessera_store import open_store
from tessera_trainer.drills import Surroundings, perform
from tessera_trainer.identity import Identity
from tessera_trainer.keeper_process import KeeperProcess
from tessera_trainer.last_words import LastWords, end_of, last_words
from tessera_trainer.memory_limit import MemoryLimit
from tessera_trainer.node_link import NodeLink
from tessera_trainer.proof import ProofRequest, ProofResult, raise_open_files
from tessera_trainer.rank_logs import RankLogs
from tessera_trainer.stacks import ANSWER_SECONDS, SILENT, Trainer, inspect
from tessera_trainer.trainer_lines import TrainerLines
from tessera_trainer.warm_link import WarmProcess, below, children_of, kill_sessions_of_children

logger = logging.getLogger("tessera_trainer.agent")

PROOF_SECONDS = 20.0
CLEAR_SECONDS = 1.0
HEARD_SECONDS = 1.0
"""How long what a trainer said before its end may take to be read."""
READY_SECONDS = 60.0
FACTS_SECONDS = 2.0
"""How old a beat's list of processes may be while trainers and warm process are the same: each look costs CPU."""
MAX_SOCKET_PATH = 90
SHOW_RANKS = "TESSERA_SHOW_RANKS"
"""Variable that is 1 where the agent's own output is all that people see of a node. (No argument: an image of an older
version would not know it.)"""
GRACE = "TESSERA_GRACE_SECONDS"
"""Variable: from SIGTERM to SIGKILL."""
COMPILED_CODE = "TESSERA_COMPILED_CODE"
"""Variable: a folder that belongs to this node of this run alone; empty or not there: nothing is carried."""
INDUCTOR_CACHE = "TORCHINDUCTOR_CACHE_DIR"
ENDS_BY_ITSELF_SECONDS = 3.0
LOOK_SECONDS = 0.1
MAX_LOG = 4000
"""Characters of a rank's log that are told with its end."""
WARM_IMPORTS = ("torch", "torch.distributed", "tessera_trainer.imports")
COMPILER_IMPORTS = ("tessera_trainer.compiler_imports",)
"""Too, where blocks are compiled."""


class RunningNode:
    """The node that this process is: `rendezvous.Node`."""

    def __init__(self, directory: RunDirectory, resolved: ResolvedRun, name: str, endpoints: str) -> None:
        self._directory, self._resolved = directory, resolved
        self._folder = _socket_folder(directory, name)
        self._lines = TrainerLines(self._folder / "trainers")
        compiles = resolved.run.spec.training.compile is not Compilation.NONE
        imports = WARM_IMPORTS + (COMPILER_IMPORTS if compiles else ())
        self._warm = WarmProcess(self._folder, imports)
        self._compiled_code = compiled_code(resolved, os.environ)
        self._keeper = KeeperProcess(self._folder, directory.root, self._compiled_code)
        processes = resolved.run.spec.nodes.processes_per_node
        identity = Identity(name, uuid.uuid4().hex[:12], _own_address(endpoints), processes)
        addresses = tuple(_address(endpoint) for endpoint in endpoints.split(","))
        self.link = NodeLink(identity, ring_of(directory), addresses, self._facts, self._lines.tell)
        self.link.inspect = self._inspect
        self.link.drill = self._drill
        self._keeper.stored = self.link.report
        self.rank_logs: RankLogs | None = None
        self._memory = MemoryLimit()
        self._leaving = False
        self._grace_s = max(0.0, float(os.environ.get(GRACE, "30")) - ENDS_BY_ITSELF_SECONDS)
        """So long it may take from the word to end until this node is gone."""
        self._proven = False
        self._fingerprint = ""
        self._known: Processes | None = None
        self._known_of: object = None
        self._known_until = 0.0

    @property
    def folder(self) -> Path:
        """Where this node's sockets lie."""
        return self._folder

    def warm_up(self) -> None:
        """From the main thread: the warm process dies with the thread that started it."""
        self._warm.start()
        self._keeper.start()

    def show_ranks(self) -> None:
        """What the trainers print is shown from now on, and its end stored where the run is."""
        folder = self._directory.agent_log(self.link.node_name).parent
        self.rank_logs = RankLogs(folder, _show, lambda: open_store(self._resolved.storage))
        self.rank_logs.begin()

    def go_online(self) -> None:
        """Once everything is imported: an import holds the interpreter for seconds, and beats with it."""
        self._lines.attach(self.link)
        self.link.start()

    def stop_workers(self) -> None:
        """See `rendezvous.Node`."""
        kill_sessions_of_children(os.getpid(), spare=self._warm.pid)  # the keeper leads none
        self._warm.kill()

    def clear_workers(self) -> None:
        """See `rendezvous.Node`."""
        while stuck := self._warm.clear(CLEAR_SECONDS):
            logger.warning("waiting for the kernel to let go of %s; not joining before", stuck)
        self._warm.restart_if_dead()

    def keeps(self) -> Keeps:
        """See `rendezvous.Node`."""
        self._keeper.restart_if_dead()
        return Keeps(self._keeper.port(), self._keeper.kept())

    def prove(self, in_full: bool) -> str:
        """See `rendezvous.Node`. Full before the first join too, mounts and storage only before any other."""
        self._warm.ready(READY_SECONDS)
        request = ProofRequest(
            device=self._resolved.device.value,
            storage=self._resolved.storage,
            run_directory=str(self._directory.root),
            world_size=self._resolved.run.spec.nodes.max * self._resolved.run.spec.nodes.processes_per_node,
            threads=self._resolved.threads,
            light=self._proven and not in_full,
            devices=self._resolved.run.spec.nodes.processes_per_node,
        )
        result = self._warm.prove(request, PROOF_SECONDS)
        if not result.ok:
            self._unfit(result)
        self._proven, self._fingerprint = True, result.fingerprint or self._fingerprint
        self._keeper.fetch_compiled_code(self._fingerprint)
        return self._fingerprint

    def leave(self) -> None:
        """Told to end: a node that trains hands over first, if there is time for it and anybody to hear it. Told again,
        it ends at once; the coordinator hears it, and need not miss this node."""
        again, self._leaving = self._leaving, True
        try:
            if not again and self.link.open is not None and self.link.connected:
                self._hand_over()
            self.link.farewell("told to end")
        finally:
            os._exit(ExitCode.STOPPED)

    def _hand_over(self) -> None:
        """Until this node's generation is over, its time is, or nobody hears it."""
        self.link.report(Leave(reason="told to end", within_seconds=self._grace_s))
        deadline = time.monotonic() + self._grace_s
        while self.link.restart_wanted() is None and self.link.connected and time.monotonic() < deadline:
            time.sleep(LOOK_SECONDS)
        if self.link.restart_wanted() is not None:
            time.sleep(ENDS_BY_ITSELF_SECONDS)  # the main thread is on its way out

    @property
    def leaving(self) -> bool:
        """See `rendezvous.Node`."""
        return self._leaving

    def _unfit(self, result: ProofResult) -> None:
        logger.error("this node is unfit and does not join: %s", result.failures)
        self.link.farewell(f"unfit: {result.failures}"[:1500])
        self._warm.stop()
        sys.stderr.flush()
        os._exit(ExitCode.UNFIT)

    def explain(self, generation: Seat) -> None:
        """See `rendezvous.Node`: from the logs of this node's ranks."""
        number = generation.generation
        troubled, killed = self._lines.troubled(number, HEARD_SECONDS), self._memory.killed()
        logs = sorted(self._directory.rank_log(self.link.node_name, number, 0).parent.glob("rank-*.log"))
        said = [(log, words) for log in logs if (words := last_words(log)) is not None]
        if killed:
            log = next((log for log, words in said if "SIGKILL" in words.message), None)
            self._trouble(number, log, LastWords(self._memory.words(), self._memory.words()))
        elif said and not troubled:
            for one in [one for one in said if one[1].place] or said[:1]:
                self._trouble(number, *one)

    def _trouble(self, number: int, log: Path | None, words: LastWords) -> None:
        self.link.report(
            Trouble(
                generation=number,
                what=TroubleKind.EXIT,
                rank=int(log.stem.removeprefix("rank-")) if log is not None else 0,
                place=words.place[-300:],
                message=words.message[:2000],
                log=end_of(log, MAX_LOG) if log is not None else "",
            )
        )

    def _drill(self, drill: Drill) -> None:
        own = {os.getpid(), *self._lines.pids()}
        around = Surroundings(
            trainers=self._lines.trainers,
            others=lambda: [pid for pid in below(os.getpid()) if pid not in own],
            tell=self._lines.tell,
            storing=self._keeper.drill,
            cut=partial(self.link.hurt, False),
            shake=partial(self.link.hurt, True),
        )
        perform(drill, around)

    def _inspect(self) -> tuple[RankSeen, ...]:
        held = self.link.open
        if held is None:
            return ()
        log, began = partial(self._directory.rank_log, self.link.node_name, held.generation), time.monotonic()
        self._lines.ask_what_they_wait_in()
        seen = inspect({rank: Trainer(pid, log(rank)) for rank, pid in self._lines.trainers().items()})
        awake = frozenset(one.rank for one in seen if one.state not in SILENT)
        waits = self._lines.wait_in(awake, began + ANSWER_SECONDS - time.monotonic())
        return tuple(one.model_copy(update={"waits_in": waits.get(one.rank)}) for one in seen)

    def prepare_workers(self, generation: Seat) -> None:
        """See `rendezvous.Node`: torchrun's workers inherit this process's environment."""
        self._keeper.begin(generation)
        os.environ["TESSERA_GENERATION"] = str(generation.generation)
        # The client puts its own rank in place of {rank}.
        log = self._directory.rank_log(self.link.node_name, generation.generation, 0).with_name("rank-{rank}.log")
        os.environ["TESSERA_RANK_LOG"] = str(log)

    def environment(self) -> dict[str, str]:
        """What all workers inherit, whatever the generation."""
        code = {INDUCTOR_CACHE: str(self._compiled_code)} if self._compiled_code is not None else {}
        return code | {
            SOCKET_VARIABLE: str(self._lines.path),
            "TESSERA_WARM_SOCKET": str(self._warm.socket_path),
            KEEPER: str(self._keeper.socket_path),
            "TESSERA_PYTHON": sys.executable,
            "TESSERA_RUN_DIRECTORY": str(self._directory.root),
            "TESSERA_NODE": self.link.node_name,
            "OMP_NUM_THREADS": str(self._resolved.threads),
            "TORCH_ELASTIC_WORKER_IDENTICAL": "1",
        }

    def _facts(self) -> Processes:
        now, of = time.monotonic(), (self._warm.pid, self._lines.pids())
        if self._known is None or of != self._known_of or now >= self._known_until:
            self._known, self._known_of, self._known_until = self._look(), of, now + FACTS_SECONDS
        return self._known

    def _look(self) -> Processes:
        own, warm = os.getpid(), self._warm.sessions()
        clients = tuple(pid for pid in children_of(own) if pid not in (self._warm.pid, self._keeper.pid))
        sessions = dict.fromkeys((os.getsid(0), *warm, *clients))
        return Processes(agent_pid=own, worker_pids=self._lines.pids(), sessions=tuple(sessions)[:200])


def compiled_code(resolved: ResolvedRun, variables: Mapping[str, str]) -> Path | None:
    """The folder in which trainers are to keep what they compile, for it to be carried to the run's other nodes; None
    where they keep it as torch is set up to: nodes on one machine share a folder."""
    folder = variables.get(COMPILED_CODE)
    return Path(folder) if folder and resolved.run.spec.training.compile is not Compilation.NONE else None


def _show(line: str) -> None:
    print(line, flush=True)


def _socket_folder(directory: RunDirectory, name: str) -> Path:
    """A private folder with a short path: a socket's may have 107 bytes."""
    folder = directory.root / "sockets" / name
    if len(str(folder)) > MAX_SOCKET_PATH:
        return Path(tempfile.mkdtemp(prefix=f"tessera-{name}-"))
    folder.mkdir(parents=True, mode=0o700, exist_ok=True)
    folder.chmod(0o700)
    return folder


def _address(endpoint: str) -> tuple[str, int]:
    host, _, port = endpoint.strip().rpartition(":")
    return host, int(port)


def _own_address(endpoints: str) -> str:
    """The address of this node that the coordinator's host would see: no packet is sent for it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(_address(endpoints.split(",", maxsplit=1)[0]))
        return str(probe.getsockname()[0])


def _torchrun_arguments(node: RunningNode, resolved: ResolvedRun, endpoints: str, program: list[str]) -> list[str]:
    client = Path(__file__).with_name("warm_client.py")
    return [
        *("--rdzv-backend", "tessera", "--rdzv-endpoint", endpoints.split(",", maxsplit=1)[0]),
        *("--rdzv-id", resolved.name),
        *("--nnodes", "1:4096", "--nproc-per-node", str(resolved.run.spec.nodes.processes_per_node)),
        # The coordinator decides when it is enough; survivors of a broken collective use restarts up.
        *("--max-restarts", "1000000000", "--monitor-interval", "0.1", "--log-dir", str(node.folder / "torchrun")),
        # Not SIGTERM: this node hands over before it ends.
        *("--signals-to-handle", "SIGINT,SIGHUP,SIGQUIT"),
        *("--no-python", sys.executable, "-I", "-S", str(client), *program),
    ]


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser(prog="python -m tessera_trainer.agent", description="One node of a run.")
    parser.add_argument("--run-directory", type=Path, required=True, metavar="DIR")
    parser.add_argument("--node", required=True, metavar="NAME")
    parser.add_argument("--coordinator", required=True, metavar="HOST:PORT[,HOST:PORT]")
    parser.add_argument("--program", metavar="PATH", help="a training program instead of Tessera's own trainer")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)
    directory = RunDirectory(arguments.run_directory.absolute())
    resolved = read_resolved_run(directory.run_json)
    node = RunningNode(directory, resolved, arguments.node, arguments.coordinator)
    # A container's first process is deaf to what it handles not.
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=node.leave).start())
    os.environ.update(node.environment())
    raise_open_files()
    node.warm_up()
    if os.environ.get(SHOW_RANKS) == "1":
        node.show_ranks()
    program = [arguments.program] if arguments.program else ["-m", "tessera_trainer"]
    return _run(node, _torchrun_arguments(node, resolved, arguments.coordinator, program))


def _run(node: RunningNode, torchrun_arguments: list[str]) -> int:
    # Imported here: TORCH_ELASTIC_WORKER_IDENTICAL is read from the environment, and --help needs no torch.
    from torch.distributed.run import main as torchrun

    from tessera_trainer.rendezvous import use_node

    assert threading.current_thread() is threading.main_thread()
    use_node(node)
    node.go_online()
    try:
        torchrun(torchrun_arguments)
    finally:
        if node.rank_logs is not None:
            node.rank_logs.end()
    closed = node.link.closed
    return closed.exit_code if closed is not None else ExitCode.DONE


if __name__ == "__main__":
    sys.exit(main())
