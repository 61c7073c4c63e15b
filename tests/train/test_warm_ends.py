"""Nothing outlives its node: who dies with whom, how fast, and what happens to a slot whose trainer will not die."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tessera_trainer.warm_client import TRAINER_STUCK, WARM_DIED
from tessera_trainer.warm_link import kill_sessions_of_children
from tests.train.warm_node import WarmNode, lives, until

SOON_S = 1.0
"""What the issue allows between a death and the last trainer's."""

FAMILY = """
    import os, signal, subprocess, sys
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    wait = [sys.executable, "-I", "-S", "-c", "import signal; signal.signal(15, signal.SIG_IGN); signal.pause()"]
    child = subprocess.Popen(wait)
    other_group = subprocess.Popen(wait, process_group=0)
    print(os.getpid(), child.pid, other_group.pid, flush=True)
    signal.pause()
"""
"""A trainer that ignores SIGTERM, with a child in its group and one in another."""


@pytest.fixture
def make_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., WarmNode]]:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([*(path for path in sys.path if path), str(tmp_path)]))
    nodes = []

    def make(*imports: str) -> WarmNode:
        nodes.append(WarmNode(tmp_path, imports))
        return nodes[-1]

    yield make
    for node in nodes:
        node.close()


@pytest.fixture
def node(make_node: Callable[..., WarmNode]) -> WarmNode:
    return make_node().start()


def family_of(node: WarmNode, slot: int = 0) -> tuple[int, ...]:
    trainer = node.run(node.program(FAMILY, "family.py"), slot=slot)
    return tuple(map(int, trainer.line().split()))


def all_gone(family: tuple[int, ...]) -> bool:
    return not any(map(lives, family))


def test_a_killed_client_takes_the_trainers_whole_session_with_it(node: WarmNode) -> None:
    family = family_of(node)
    node.trainers[0].client.kill()
    assert until(lambda: all_gone(family), SOON_S)


def test_a_trainer_that_ends_leaves_nothing_behind(node: WarmNode) -> None:
    family = family_of(node)
    os.kill(family[0], signal.SIGKILL)
    assert node.trainers[0].ended()[0] == -signal.SIGKILL
    assert until(lambda: all_gone(family), SOON_S)


def test_a_killed_warm_process_takes_every_trainer_with_it_and_clients_say_so(node: WarmNode) -> None:
    families = family_of(node, 0) + family_of(node, 1)
    began = time.monotonic()
    os.kill(node.warm.pid, signal.SIGKILL)
    ends = [trainer.client.wait(SOON_S) for trainer in node.trainers]
    assert until(lambda: all_gone(families), began + SOON_S - time.monotonic())
    assert ends == [WARM_DIED, WARM_DIED]


def test_a_dead_warm_process_is_started_again_and_serves(node: WarmNode) -> None:
    first = node.warm.pid
    os.kill(first, signal.SIGKILL)
    assert until(lambda: not node.warm.alive(), SOON_S)
    assert (node.warm.restart_if_dead(), node.warm.restart_if_dead(), node.warm.ready(30.0)) == (True, False, True)
    assert node.run(node.program("print('here')")).ended() == (0, "here\n", "")


def test_a_killed_agent_takes_the_warm_process_and_every_trainer_with_it(
    make_node: Callable[..., WarmNode], tmp_path: Path
) -> None:
    node = make_node()
    agent = node.program(
        f"""
        import subprocess, sys, os, time
        from pathlib import Path
        from tessera_trainer.warm_link import WarmProcess
        warm = WarmProcess(Path({str(tmp_path / "sockets")!r}), (), Path({str(node.log)!r}).open("ab"))
        warm.start()
        assert warm.ready(60.0)
        print(warm.pid, flush=True)
        time.sleep(600)
        """,
        "agent.py",
    )
    with subprocess.Popen([sys.executable, agent], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        warm = int(process.stdout.readline())
        family = family_of(node)
        process.kill()
    assert until(lambda: all_gone((warm, *family)), SOON_S)
    assert node.trainers[0].client.wait(SOON_S) == WARM_DIED


def test_clear_ends_every_trainer_even_what_left_its_session(node: WarmNode) -> None:
    escapes = node.program(
        """
        import os, signal, subprocess, sys
        wait = [sys.executable, "-I", "-S", "-c", "import signal; signal.pause()"]
        print(os.getpid(), subprocess.Popen(wait, start_new_session=True).pid, flush=True)
        signal.pause()
        """,
        "escapes.py",
    )
    escaped = tuple(map(int, node.run(escapes, slot=1).line().split()))
    families = family_of(node) + escaped
    assert (node.warm.clear(5.0), all_gone(families)) == ((), True)


def test_kill_ends_every_trainer_without_asking_anybody(node: WarmNode) -> None:
    family = family_of(node)
    os.kill(node.warm.pid, signal.SIGSTOP)  # whoever asked it would wait
    node.warm.kill()
    assert until(lambda: all_gone(family), SOON_S)
    os.kill(node.warm.pid, signal.SIGCONT)


def test_a_warm_process_that_does_not_answer_is_ended_with_its_trainers(node: WarmNode) -> None:
    family = family_of(node)
    os.kill(node.warm.pid, signal.SIGSTOP)
    left = node.warm.clear(0.2)
    assert (left, all_gone(family), node.warm.alive()) == ((), True, False)


def test_a_warm_process_that_still_imports_is_let_be_by_clear(
    make_node: Callable[..., WarmNode], tmp_path: Path
) -> None:
    (tmp_path / "slow.py").write_text(
        f"import os, time\nwhile not os.path.exists({str(tmp_path / 'go')!r}): time.sleep(0.002)"
    )
    warm = make_node("slow").warm
    warm.start()
    assert (warm.clear(0.1), warm.alive()) == ((), True)
    (tmp_path / "go").touch()
    assert warm.ready(60.0)


def test_workers_sessions_are_killed_and_the_warm_process_is_spared(node: WarmNode) -> None:
    family = family_of(node)
    killed = kill_sessions_of_children(os.getpid(), spare=node.warm.pid)
    assert node.trainers[0].client.pid in killed
    assert until(lambda: all_gone(family), SOON_S)
    assert node.warm.alive()


def test_the_old_trainer_of_a_slot_is_gone_before_the_next_begins(node: WarmNode) -> None:
    family = family_of(node)
    looks = f"import os; print([os.path.exists(f'/proc/{{pid}}') for pid in {family}])"
    assert node.run(node.program(looks, "looks.py")).ended() == (0, "[False, False, False]\n", "")


def test_other_slots_go_on(node: WarmNode) -> None:
    family = family_of(node, slot=1)
    node.run(node.program("pass"), slot=0).ended()
    assert all(map(lives, family))


PTRACE_SEIZE = 0x4206


@pytest.fixture
def stuck_trainer(node: WarmNode) -> Iterator[int]:
    """A trainer in slot 0 that cannot be reaped once it is killed.

    It is traced: a killed process stays a zombie until its tracer lets it go, which is as good as stuck in the kernel.
    """
    trainer = int(node.run(node.program("import os, signal; print(os.getpid(), flush=True); signal.pause()")).line())
    if ctypes.CDLL(None, use_errno=True).ptrace(PTRACE_SEIZE, trainer, None, None) != 0:
        pytest.skip(f"this process may not trace: {os.strerror(ctypes.get_errno())}")
    yield trainer
    let_go(trainer)


def let_go(trainer: int) -> None:
    with suppress(ChildProcessError, ProcessLookupError):
        os.kill(trainer, signal.SIGKILL)
        os.waitpid(trainer, 0)


def test_a_slot_whose_trainer_cannot_be_reaped_takes_no_other(node: WarmNode, stuck_trainer: int) -> None:
    assert node.warm.clear(0.2) == (stuck_trainer,)
    refused = node.run(node.program("print('never')", "next.py"), slot=0)
    assert refused.ended() == (
        TRAINER_STUCK,
        "",
        f"tessera warm client {refused.client.pid}: process {stuck_trainer} of this slot's old trainer cannot be ended "
        "(stuck in the kernel): no start\n",
    )
    assert node.run(node.program("print('elsewhere')"), slot=1).ended() == (0, "elsewhere\n", "")
    let_go(stuck_trainer)
    assert node.run(node.program("print('free again')"), slot=0).ended() == (0, "free again\n", "")


def test_a_client_that_waits_for_its_slot_ends_with_clear_and_starts_nothing(
    node: WarmNode, stuck_trainer: int
) -> None:
    waiting = node.run(node.program("print('never')", "never.py"), slot=0)
    assert until(lambda: not lives(stuck_trainer), 5.0), "its request has not come"
    assert (node.warm.clear(0.2), waiting.ended()) == ((stuck_trainer,), (-signal.SIGKILL, "", ""))


def test_a_warm_process_ends_the_one_that_listened_in_its_place(node: WarmNode, tmp_path: Path) -> None:
    family = family_of(node)
    second = WarmNode(tmp_path)
    second.warm.start()
    try:
        assert (second.warm.ready(60.0), node.warm.alive(), all_gone(family)) == (True, False, True)
    finally:
        second.close()


def test_a_client_that_says_nothing_holds_nobody_up(node: WarmNode) -> None:
    with socket.socket(socket.AF_UNIX) as silent, socket.socket(socket.AF_UNIX) as half:
        for each in (silent, half):
            each.connect(str(node.warm.socket_path))
        half.sendall(b"\xff\x00")
        assert node.run(node.program("print('served')")).ended() == (0, "served\n", "")


@pytest.mark.parametrize("payload", [b"\xff\xff\xff\xff", b"\x04\x00\x00\x00{...", b"\x02\x00\x00\x00[]"])
def test_what_is_no_request_is_turned_away(node: WarmNode, payload: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5.0)
        client.connect(str(node.warm.socket_path))
        client.sendall(payload)
        said = client.makefile("rb").read()
    assert said.startswith(b"cold the warm process does not take the request: ")
    assert node.warm.ready(5.0)


def test_without_a_warm_process_the_client_becomes_the_trainer(make_node: Callable[..., WarmNode]) -> None:
    trainer = make_node().run("-u", "-c", "import os, sys; print(os.getpid()); sys.exit(5)")
    code, output, errors = trainer.ended()
    assert (code, int(output)) == (5, trainer.client.pid)
    assert "cold start: the warm process at" in errors


def test_a_cold_trainer_dies_with_its_agent(make_node: Callable[..., WarmNode]) -> None:
    node = make_node()
    waits = node.program("import os, signal; print(os.getpid(), flush=True); signal.pause()")
    starts = node.program(
        f"import subprocess; subprocess.run({[*node.warm.client_command, waits]!r}, start_new_session=True)",
        "starts.py",
    )
    with subprocess.Popen([sys.executable, starts], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as agent:
        assert agent.stdout is not None
        trainer = int(agent.stdout.readline())
        agent.kill()
        assert until(lambda: not lives(trainer), SOON_S)


def test_imports_that_start_threads_make_every_start_cold_and_are_named_once(
    make_node: Callable[..., WarmNode], tmp_path: Path
) -> None:
    (tmp_path / "threaded.py").write_text(
        "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()"
    )
    node = make_node("threaded").start()
    script = node.program("import os; print(os.getpid())")
    pids, said = [], []
    for _ in range(2):
        trainer = node.run(script)
        _, output, errors = trainer.ended()
        pids.append(int(output) == trainer.client.pid)
        said.append("its imports started threads" in errors)
    assert (node.warm.ready(5.0), pids, said) == (False, [True, True], [True, False])


def test_an_import_that_fails_makes_every_start_cold(make_node: Callable[..., WarmNode]) -> None:
    node = make_node("no_such_module").start()
    _, output, errors = node.run(node.program("print('cold')")).ended()
    assert (output, "no_such_module cannot be imported" in errors) == ("cold\n", True)


def test_a_socket_may_lie_deeper_than_a_sockets_path_may_be_long(
    tmp_path: Path, make_node: Callable[..., WarmNode]
) -> None:
    make_node()  # for its environment
    folder = tmp_path / ("d" * 100) / ("e" * 100)
    folder.mkdir(parents=True)
    node = WarmNode(folder).start()
    try:
        assert node.run(node.program("print('deep')")).ended() == (0, "deep\n", "")
    finally:
        node.close()
