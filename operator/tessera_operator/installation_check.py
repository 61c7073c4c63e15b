"""`python -m tessera_operator.installation_check --namespace NAME`: what `helm test` runs.

Has the API server judge a build and a run without keeping them: the two definitions are there, with their rules, and a
wrong run is refused. Touches nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import copy
import sys
from typing import Any

from tessera_api.exit_codes import ExitCode
from tessera_operator.cluster import Cluster, ClusterError, ours

_S3 = {"uri": "s3://none/none", "secretRef": {"name": "none"}}
BUILD: dict[str, Any] = {
    "apiVersion": "tessera.dev/v1alpha1",
    "kind": "DatasetBuild",
    "metadata": {"name": "installation-check"},
    "spec": {
        "content": "text",
        "sources": [
            {
                "name": "none",
                "uri": "s3://none/none",
                "format": "text",
                "licence": "CC0-1.0",
                "provenance": {"owner": "nobody", "collected": "2026-01-01", "method": "none", "synthetic": True},
            }
        ],
        "tokenizer": {"train": {"vocabularySize": 512}},
        "output": _S3,
    },
}
RUN: dict[str, Any] = {
    "apiVersion": "tessera.dev/v1alpha1",
    "kind": "TrainingRun",
    "metadata": {"name": "installation-check"},
    "spec": {
        "method": "pretrain",
        "model": {"recipe": "llama-1m"},
        "data": {"sequenceLength": 128, "mix": [{"dataset": "installation-check", "weight": "1"}]},
        "training": {
            "tokens": "100k",
            "seed": 7,
            "globalBatch": 8,
            "unit": 2,
            "learningRate": "1e-3",
            "schedule": {"kind": "cosine", "warmupSteps": 5},
        },
        "nodes": {"count": 1, "max": 1},
        "storage": _S3,
    },
}


def wrong_run() -> dict[str, Any]:
    """One whose nodes do not fit together."""
    document = copy.deepcopy(RUN)
    document["spec"]["nodes"] = {"count": 2, "max": 1}
    return document


async def check(cluster: Cluster, namespace: str) -> list[str]:
    """What is wrong with the installation; nothing, it is to be hoped. Raises ClusterError when nobody answers."""
    wrong = []
    for plural, document in (("datasetbuilds", BUILD), ("trainingruns", RUN)):
        if (refused := await _refused(cluster, ours(namespace, plural), document)) is not None:
            wrong.append(f"a right {document['kind']} is refused: {refused}")
    if await _refused(cluster, ours(namespace, "trainingruns"), wrong_run()) is None:
        wrong.append("a TrainingRun with count above max is taken: its definition is not this version's")
    return wrong


async def _refused(cluster: Cluster, path: str, document: dict[str, Any]) -> str | None:
    try:
        await cluster.judge(path, document)
    except ClusterError as error:
        if error.status == 0:
            raise
        return str(error)
    return None


async def _run(namespace: str) -> int:
    cluster = await Cluster.connect()
    try:
        wrong = await check(cluster, namespace)
    except ClusterError as error:
        wrong = [str(error)]
    finally:
        await cluster.close()
    for line in wrong:
        print(line, file=sys.stderr)
    if not wrong:
        print("a build and a run are judged as they should be")
    return ExitCode.TROUBLE if wrong else ExitCode.DONE


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tessera_operator.installation_check")
    parser.add_argument("--namespace", required=True, metavar="NAME")
    return asyncio.run(_run(parser.parse_args().namespace))


if __name__ == "__main__":
    sys.exit(main())
