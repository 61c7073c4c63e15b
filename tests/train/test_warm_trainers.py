"""A trainer forked from the warm process is what a new interpreter would have made of it."""

from __future__ import annotations

import os
import re
import signal
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.train.warm_node import WarmNode, until


@pytest.fixture(scope="module")
def module_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WarmNode]:
    paths = os.pathsep.join(path for path in sys.path if path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", paths)
        patch.setenv("OMP_NUM_THREADS", "1")
        node = WarmNode(tmp_path_factory.mktemp("node"), ("numpy", "torch", "torch.distributed")).start()
        yield node
        node.close()


@pytest.fixture
def node(module_node: WarmNode, monkeypatch: pytest.MonkeyPatch) -> WarmNode:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return module_node


def test_the_warm_process_has_imported_torch_and_has_one_thread(node: WarmNode) -> None:
    assert (node.warm.ready(1.0), os.listdir(f"/proc/{node.warm.pid}/task")) == (True, [str(node.warm.pid)])


SHOWS_ITS_PLACE = """
    import os, signal, sys
    print(sys.argv, os.getcwd(), os.environ["LOCAL_RANK"], os.environ["SAID"], sys.stdin.read(), __name__, sys.path[0])
    print(os.getsid(0) == os.getpid(), signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))
    print(signal.pthread_sigmask(signal.SIG_BLOCK, ()), signal.getsignal(signal.SIGCHLD), signal.set_wakeup_fd(-1))
    print(sorted(os.listdir("/proc/self/fd"))[:4], file=sys.stderr)
"""


@pytest.mark.parametrize("how", ["script", "module"])
def test_a_trainer_finds_itself_where_a_new_interpreter_would(node: WarmNode, how: str) -> None:
    script = node.program(SHOWS_ITS_PLACE, "shows_its_place.py")
    arguments = ([script] if how == "script" else ["-m", "shows_its_place"]) + ["--x", "é \udcff"]
    said = {"SAID": "ünd \udce9"}
    assert node.run(*arguments, environment=said).ended("told") == node.run_cold(*arguments, environment=said).ended(
        "told"
    )


ENDINGS = {
    "falls off its end": "print('done')",
    "exits with a number": "import sys; sys.exit(3)",
    "exits with a large number": "import sys; sys.exit(259)",
    "exits with none": "import sys; sys.exit(None)",
    "exits with a text": "import sys; sys.exit('no data')",
    "raises": "def f():\n    raise ValueError('wrong')\nf()",
    "is no Python": "def f(:",
    "is killed": "import os; os.kill(os.getpid(), 9)",
    "is aborted": "import os, resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); os.abort()",
    "is interrupted": "import os, signal; os.kill(os.getpid(), signal.SIGINT)",
    "leaves at once": "import os; os._exit(7)",
    "has exit functions": "import atexit; atexit.register(print, 'last'); print('first'); raise SystemExit(4)",
    "has threads": "import threading, time\nthreading.Thread(target=lambda: (time.sleep(0.05), print('late'))).start()",
    "has a hook": "import sys; sys.excepthook = lambda *a: print('hook', a[0].__name__); 1 / 0",
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_trainer_ends_as_a_new_interpreter_would(node: WarmNode, ending: str) -> None:
    script = node.program(ENDINGS[ending], "ending.py")
    assert node.run(script).ended() == node.run_cold(script).ended()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2])
def test_signals_reach_the_trainer(node: WarmNode, number: signal.Signals) -> None:
    script = node.program(
        f"""
        import signal, sys
        signal.signal({int(number)}, lambda number, frame: sys.exit(40 + number))
        print("waiting", flush=True)
        signal.pause()
        """
    )
    trainer = node.run(script)
    assert trainer.line() == "waiting"
    trainer.client.send_signal(number)
    assert trainer.ended() == (40 + number, "", "")


def test_a_signal_that_the_trainer_does_not_handle_ends_the_client_too(node: WarmNode) -> None:
    trainer = node.run(node.program("import signal; print('waiting', flush=True); signal.pause()"))
    assert trainer.line() == "waiting"
    trainer.client.send_signal(signal.SIGTERM)
    assert trainer.ended() == (-signal.SIGTERM, "", "")


def test_trainers_draw_different_random_numbers(node: WarmNode) -> None:
    script = node.program("import random, numpy, torch; print(random.random(), numpy.random.rand(), torch.rand(1))")
    drawn = [node.run(script).ended()[1].split() for _ in range(2)]
    assert [left == right for left, right in zip(*drawn, strict=True)] == [False, False, False]


def test_the_generation_stands_for_torchruns_restart_count(node: WarmNode) -> None:
    script = node.program("import os; print(os.environ['TORCHELASTIC_RESTART_COUNT'])")
    environment = {"TORCHELASTIC_RESTART_COUNT": "1", "TESSERA_GENERATION": "12"}
    assert node.run(script, environment=environment).ended() == (0, "12\n", "")


@pytest.mark.parametrize("cold", [{}, {"MKL_DYNAMIC": "FALSE"}])
def test_output_is_appended_to_the_ranks_log(node: WarmNode, tmp_path: Path, cold: dict[str, str]) -> None:
    script = node.program("import os, sys; print('out'); sys.stdout.flush(); os.write(2, b'err\\n')")
    log = tmp_path / "logs" / "node-1" / "3" / "rank-5.log"
    environment = {"TESSERA_RANK_LOG": str(log.with_name("rank-{rank}.log")), "RANK": "5", **cold}
    for _ in range(2):
        assert node.run(script, environment=environment).ended()[:2] == (0, "")
    assert log.read_text() == "out\nerr\n" * 2


def test_a_setting_read_at_load_that_differs_means_a_cold_start_said_once(node: WarmNode) -> None:
    script = node.program("import os; print(os.getpid())")
    seen = []
    for _ in range(2):
        trainer = node.run(script, environment={"OMP_NUM_THREADS": "2", "KMP_AFFINITY": "none"})
        code, output, errors = trainer.ended()
        seen.append((code, int(output) == trainer.client.pid, re.sub(r"\d+", "N", errors)))
    assert seen == [
        (
            0,
            True,
            "tessera warm client N: cold start: settings that are read at load differ from this node's: "
            "KMP_AFFINITY, OMP_NUM_THREADS\n",
        ),
        (0, True, ""),
    ]
    assert node.log.read_text().count("KMP_AFFINITY") == 1


def test_a_warm_start_is_many_times_faster_than_a_cold_one(node: WarmNode) -> None:
    script = node.program("import os, torch, time; print(time.time() - float(os.environ['T0']))")
    warm = [float(node.run(script, environment={"T0": repr(time.time())}).ended()[1]) for _ in range(5)]
    cold = float(node.run_cold(script, environment={"T0": repr(time.time())}).ended()[1])
    assert statistics.median(warm) < cold / 5, f"first line after {warm} s warm, {cold} s cold"


def test_sessions_name_the_warm_process_and_its_trainers(node: WarmNode) -> None:
    assert until(lambda: node.warm.sessions() == (node.warm.pid,), 2.0)
    script = node.program("import os, time; print(os.getpid(), flush=True); time.sleep(60)")
    trainers = [int(node.run(script, slot=slot).line()) for slot in (0, 1)]
    seen = node.warm.sessions()
    left = node.warm.clear(5.0)
    assert (seen, left) == ((node.warm.pid, *trainers), ())
