"""The command line. Imports what a command needs only when it runs: `tessera --help` answers at once."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tessera_api.exit_codes import ExitCode

_DONE = 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(words)
    from tessera_cli.refusal import Refused

    try:
        return _run(options, words)
    except Refused as refused:
        print(f"tessera: {refused}", file=sys.stderr)
        return int(refused.code)
    except KeyboardInterrupt:  # outside of a build and of a driven run, which end in words of their own
        from tessera_api.exit_codes import ExitCode

        print("tessera: interrupted; nothing is left running, the same command goes on", file=sys.stderr)
        return int(ExitCode.STOPPED)


def _run(options: argparse.Namespace, words: list[str]) -> int:
    if options.command == "local":
        return int(_local(options, words))
    if options.command == "version":
        from tessera_api.versions import versions

        print("\n".join(f"{name} {version}" for name, version in versions().items()))
        return _DONE
    if options.command == "drill":
        return int(_drill(options))
    from tessera_cli import run_commands

    shown = {"report": run_commands.report, "status": run_commands.status, "stop": run_commands.stop}
    print(shown[options.command](options.directory))
    return _DONE


def _drill(options: argparse.Namespace) -> ExitCode:
    from tessera_api.drill import Fault
    from tessera_cli.drilling import Order, drill
    from tessera_cli.refusal import Refused

    faults = [fault.value for fault in Fault]
    if options.fault not in faults:
        raise Refused(f"there is no fault {options.fault!r}: {', '.join(faults)}")
    order = Order(Fault(options.fault), options.node, options.seconds)
    if options.namespace is not None:
        from tessera_cli import cluster_drill
        from tessera_cli.cluster_runs import ClusterRun

        return cluster_drill.drill(ClusterRun(options.namespace, options.run, options.context), order, print)
    return drill(Path(options.run), order, print)


def _local(options: argparse.Namespace, words: list[str]) -> ExitCode:
    import signal

    from tessera_cli.local import Wish, run_local, surroundings

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # until a run is driven, SIGTERM is a Ctrl-C
    wish = Wish(
        files=tuple(options.files),
        workdir=options.workdir,
        nodes=options.nodes,
        sets=tuple(options.set),
        again=shlex.join(["tessera", *words]),
    )
    return run_local(wish, surroundings(sys.stdout))


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of nodes: give 1 or more")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tessera", description="Train language models from documents to an exported model, through lost nodes."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    local = commands.add_parser(
        "local",
        help="run manifests on this machine",
        description="Build the datasets and train the runs of the manifests on this machine. The same command resumes.",
    )
    local.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help="manifest (YAML) of DatasetBuilds and TrainingRuns"
    )
    local.add_argument(
        "--nodes", type=_count, metavar="N", help="train on N nodes (process trees) instead of nodes.count"
    )
    local.add_argument(
        "--workdir",
        type=Path,
        default=Path(".tessera"),
        metavar="DIR",
        help="runs and datasets are kept here (%(default)s)",
    )
    local.add_argument(
        "--set", action="append", default=[], metavar="PATH=VALUE", help="override a field, such as training.tokens=10M"
    )
    for name, words in (
        ("report", "draw a run: DIR/report.html"),
        ("status", "show where a run stands"),
        ("stop", "stop a run that is being driven; it commits first"),
    ):
        command = commands.add_parser(name, help=words, description=words)
        command.add_argument("directory", type=Path, metavar="DIR", help="the run's directory, WORKDIR/runs/NAME")
    words = "hurt a run that allows drills, and see it recover as promised"
    command = commands.add_parser("drill", help=words, description=words)
    where = "the run's directory, WORKDIR/runs/NAME; with --namespace the name of a TrainingRun"
    command.add_argument("run", metavar="RUN", help=where)
    command.add_argument("--namespace", "-n", metavar="NS", help="the run is on a cluster, in this namespace")
    command.add_argument("--context", metavar="NAME", help="of the kubeconfig (default: its current one)")
    command.add_argument("--fault", required=True, metavar="KIND", help="worker-kill, node-kill, lock-hog, ...")
    command.add_argument("--node", metavar="NAME", help="whom to hurt (default: the node of rank 0)")
    command.add_argument(
        "--seconds", type=float, default=10.0, metavar="S", help="how long a fault lasts that does (%(default)s)"
    )
    commands.add_parser("version", help="show the versions of Tessera and its libraries")
    return parser


if __name__ == "__main__":
    sys.exit(main())
