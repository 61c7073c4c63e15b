"""python -m tessera_data build FILE --work DIR: builds the one DatasetBuild in FILE (YAML or JSON).
python -m tessera_data baselines URI: bits per byte of simple models on the held-out text of the dataset at URI.

Of several workers, each with a folder of its own, all give --workers and each its --index: what they share lies below
the build's output, in `.build`, until the dataset is published. One that was lost may be started again, on an empty
folder too.

Prints a JSON line a task; the last line says where the dataset is. A mistake of the user is one message on standard
error.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tessera_api.dataset_build import DatasetBuild
from tessera_api.exit_codes import ExitCode
from tessera_api.manifest import ManifestErrors, load_manifests
from tessera_data.baselines import measure
from tessera_data.build import Built, Stage, build_dataset, team_of
from tessera_data.manifest import Split
from tessera_data.progress_page import ProgressPage
from tessera_data.publish import NotReproduced
from tessera_data.reader import Dataset
from tessera_data.refusal import Refused
from tessera_data.shards import CorruptShard
from tessera_store import StoreError, StoreUnavailable


def main(arguments: list[str] | None = None) -> ExitCode:
    """The exit code. Every message has been printed."""
    parser = argparse.ArgumentParser(prog="python -m tessera_data", description=__doc__)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("build", help="build a dataset, or go on with a build that was stopped")
    command.add_argument("file", type=Path, help="a manifest with one DatasetBuild")
    command.add_argument("--work", type=Path, required=True, help="folder for what is finished until the end")
    command.add_argument("--result", type=Path, help="file that is to hold the last line, too")
    command.add_argument("--workers", type=int, default=0, metavar="N", help="share the work with N - 1 others")
    command.add_argument("--index", type=int, default=0, help="which of the workers this is, from 0")
    command.add_argument("--progress", metavar="HOST:PORT", help="say there over HTTP how far the build is")
    command.set_defaults(act=_build)
    command = commands.add_parser("baselines", help="bits per byte of gzip, unigram and bigram on the held-out text")
    command.add_argument("uri", help="address of a dataset's manifest.json")
    command.add_argument("--cache", type=Path, default=Path("cache"), help="folder for what is fetched from a store")
    command.set_defaults(act=_baselines)
    options = parser.parse_args(arguments)
    try:
        said = options.act(options)
        if getattr(options, "result", None) is not None:
            options.result.write_text(json.dumps(said), encoding="utf-8")
        _say(said)
    except (ManifestErrors, Refused) as error:
        return _failed(ExitCode.WRONG_INPUT, error)
    except (NotReproduced, CorruptShard) as error:
        return _failed(ExitCode.TROUBLE, error)
    except StoreUnavailable as error:
        return _failed(ExitCode.UNAVAILABLE, error)
    except StoreError as error:  # refused or missing: permissions, address, a file that went away
        return _failed(ExitCode.WRONG_INPUT, error)
    return ExitCode.DONE


def _build(options: argparse.Namespace) -> dict[str, Any]:
    page = ProgressPage()
    if options.progress is not None:
        host, _, port = options.progress.rpartition(":")
        page.begin(host, int(port))

    def progress(stage: Stage, done: int, of: int) -> None:
        _say({"stage": stage.value, "done": done, "of": of})
        page.say(stage.value, done, of)

    build = _the_build(options.file)
    team = team_of(build, options.index, options.workers) if options.workers else None
    try:
        return _summary(build_dataset(build, options.work, progress, team=team))
    finally:
        if team is not None:
            team.end()


def _baselines(options: argparse.Namespace) -> dict[str, Any]:
    try:
        return asdict(measure(Dataset.open(options.uri, options.cache)))
    except ValueError as error:  # no dataset, or one without held-out text
        raise Refused(options.uri, str(error), "give the address that the build's last line says") from error


def _the_build(file: Path) -> DatasetBuild:
    builds = [resource for resource in load_manifests([file]) if isinstance(resource, DatasetBuild)]
    if len(builds) != 1:
        raise Refused(str(file), f"it has {len(builds)} DatasetBuilds", "give a file with exactly one")
    return builds[0]


def _summary(built: Built) -> dict[str, Any]:
    manifest = built.manifest
    return {
        "manifest": built.uri,
        "sha256": hashlib.sha256(built.data).hexdigest(),
        "fingerprint": manifest.fingerprint,
        "reused": built.reused,
        "chunks": built.chunks,
        "tokenizer_sha256": manifest.tokenizer.sha256,
        "vocabulary": manifest.tokenizer.vocabulary_size,
        "tokens": manifest.splits[Split.TRAIN].tokens,
        "learned": manifest.splits[Split.TRAIN].learned,
        "splits": {
            split.value: {"documents": info.documents, "tokens": info.tokens, "bytes": info.text_bytes}
            for split, info in manifest.splits.items()
        },
        "sources": {source["name"]: source["documents"] for source in manifest.build["sources"]},
    }


def _say(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)


def _failed(code: ExitCode, error: Exception) -> ExitCode:
    print(f"tessera_data: {error}", file=sys.stderr, flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
