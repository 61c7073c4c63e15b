"""From a fork of the warm process to a process as good as fresh: the trainer, or the proof.

What must stay true: nothing here returns into the warm process' loop; a fork dies with the warm process; the program
finds what a new interpreter would give it (session, signals, descriptors, environment, path, random seeds) and ends
with the code, the traceback and the order of shutdown that a new interpreter would have.
"""

from __future__ import annotations

import atexit
import os
import random
import runpy
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn

from tessera_trainer.warm_client import die_with_parent
from tessera_trainer.warm_request import Run

BUG, FLUSH_FAILED = 1, 120
"""Exit codes of the interpreter: an uncaught exception; output that could not be written at the end."""
_IGNORED = (signal.SIGPIPE, signal.SIGXFSZ)
"""What a new interpreter ignores."""
_OURS = (__file__, *(str(Path(__file__).with_name(name)) for name in ("warm.py", "warm_server.py")), "<frozen runpy>")


def fork(close_inherited: Callable[[], None], body: Callable[[], int]) -> int:
    """Forks; the child leads a session of its own, closes what it inherited, and exits with what `body` returns.

    Returns the child's process id. OSError if there is no room for one. Call it from the only thread.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    child = os.fork()
    if child:
        return child
    code = BUG
    try:
        die_with_parent(parent)
        os.setsid()
        _reset_signals()
        close_inherited()
        code = body()
    except SystemExit as end:
        code = _code_of(end)
    except KeyboardInterrupt as interrupt:
        _complain(interrupt)
        code = -signal.SIGINT
    except BaseException as error:  # noqa: BLE001 - the edge of a program, which may fail in any way
        _complain(error)
    finally:
        _finish(code)


def run_program(request: Run, imported: Mapping[str, str]) -> int:
    """Becomes the trainer of `request`. `imported`: variables that the warm process' imports have set."""
    for target, source in enumerate(request.descriptors):
        os.dup2(source, target)
    for source in request.descriptors:
        if source > 2:
            os.close(source)
    sys.stdout.reconfigure(line_buffering=os.isatty(1))  # type: ignore[union-attr]
    os.environ.clear()
    os.environ.update({**imported, **request.environment})
    os.chdir(request.directory)
    if request.processors != os.sched_getaffinity(0):
        os.sched_setaffinity(0, request.processors)
    _reseed()
    if request.argv[0] == "-m":
        _run_module(request.argv[1], list(request.argv[1:]))
    else:
        _run_script(list(request.argv))
    return 0


def _run_module(name: str, argv: list[str]) -> None:
    sys.argv = argv
    _set_first_path(os.getcwd())
    for stale in (name, f"{name}.__main__"):  # a new interpreter would not have it, and runpy warns
        if not hasattr(sys.modules.get(stale), "__path__"):
            sys.modules.pop(stale, None)
    runpy.run_module(name, run_name="__main__", alter_sys=True)


def _run_script(argv: list[str]) -> None:
    sys.argv = argv
    _set_first_path(os.path.dirname(os.path.realpath(argv[0])))
    runpy.run_path(argv[0], run_name="__main__")


def _set_first_path(path: str) -> None:
    if not sys.flags.safe_path:
        sys.path[0] = path


def _reset_signals() -> None:
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN if number in _IGNORED else signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _reseed() -> None:
    """New seeds where a new process would draw them; forks of one process would all draw the same numbers."""
    random.seed()
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed()
    if "torch" in sys.modules:
        sys.modules["torch"].default_generator.seed()


def _code_of(end: SystemExit) -> int:
    if end.code is None:
        return 0
    if isinstance(end.code, int):
        return end.code & 0xFF
    print(end.code, file=sys.stderr)
    return BUG


def _complain(error: BaseException) -> None:
    """The traceback, from the program's first frame on: without ours and those of `runpy`."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename in _OURS:
        trace = trace.tb_next
    sys.excepthook(type(error), error.with_traceback(trace), trace)


def _finish(code: int) -> NoReturn:
    """Ends this process, whatever happens. A negative code is a signal."""
    try:
        code = _shut_down(code)
    finally:
        if code < 0:
            signal.signal(-code, signal.SIG_DFL)
            os.kill(os.getpid(), -code)
        os._exit(code & 0xFF)


def _shut_down(code: int) -> int:
    """Threads, exit functions, output: in the interpreter's order. Returns the code to end with."""
    try:
        threading._shutdown()  # type: ignore[attr-defined]  # joins the threads that are no daemons
        atexit._run_exitfuncs()
    except SystemExit as end:
        code = _code_of(end)
    except BaseException as error:  # noqa: BLE001 - an exit function may fail in any way, and the code stands
        _complain(error)
    for stream in (sys.stdout, sys.stderr):
        if stream is None or stream.closed:
            continue  # the program's own doing
        try:
            stream.flush()
        except OSError:  # nobody reads it any more
            code = code or FLUSH_FAILED
    return code
