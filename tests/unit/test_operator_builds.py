"""What the operator decides about a dataset build."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

from tessera_api.dataset_build import BuildPhase, DatasetBuild
from tessera_data.progress_page import ProgressPage
from tessera_operator import builders
from tessera_operator.core.build_decision import BuildProgress, BuildView, Ending, decide, endings, job_failed
from tests.unit.operator_world import NOW, SHA

BUILD: dict[str, Any] = {
    "apiVersion": "tessera.dev/v1alpha1",
    "kind": "DatasetBuild",
    "metadata": {"name": "stdlib", "namespace": "team"},
    "spec": {
        "content": "text",
        "sources": [
            {
                "name": "stdlib",
                "uri": "file:///usr/lib/python3.11",
                "format": "text",
                "licence": "PSF-2.0",
                "provenance": {"owner": "PSF", "collected": "2026-11-01", "method": "package", "synthetic": False},
            }
        ],
        "tokenizer": {"train": {"vocabularySize": 512}},
        "output": {"uri": "s3://models/datasets", "secretRef": {"name": "models-s3"}},
    },
}
RESULT = {
    "manifest": "s3://models/datasets/stdlib/manifest.json",
    "sha256": SHA,
    "fingerprint": SHA,
    "reused": False,
    "chunks": 2,
    "tokenizer_sha256": SHA,
    "vocabulary": 512,
    "tokens": 1000,
    "splits": {"train": {"documents": 60, "tokens": 1000}, "heldOut": {"documents": 3, "tokens": 50}},
}
VIEW = BuildView(DatasetBuild.parse(BUILD), 1, NOW, has_job=True, job_failed="", running=False, endings=())


def test_a_build_without_a_job_gets_one() -> None:
    plan = decide(replace(VIEW, has_job=False))

    assert plan.make
    assert plan.status.phase is BuildPhase.PENDING


def test_a_pod_that_builds_is_shown() -> None:
    plan = decide(replace(VIEW, running=True))

    assert (plan.make, plan.over, plan.status.phase) == (False, False, BuildPhase.BUILDING)


def test_how_far_it_is_is_shown_and_the_last_count_of_chunks_stays() -> None:
    encoding = decide(replace(VIEW, running=True, progress=BuildProgress(stage="encode", done=12, of=40))).status
    assert encoding.conditions is not None
    assert (encoding.chunks, encoding.conditions[0].message) == ("12/40", "encode: 12 of 40")

    build = VIEW.build.model_copy(update={"status": encoding})
    later = decide(
        replace(VIEW, build=build, running=True, progress=BuildProgress(stage="shards", done=1, of=2))
    ).status

    assert later.conditions is not None
    assert (later.chunks, later.conditions[0].message) == ("12/40", "shards: 1 of 2")


def test_a_build_is_asked_how_far_it_is_and_what_it_says_is_not_trusted() -> None:
    page = ProgressPage()
    port = page.begin("127.0.0.1", 0)

    page.say("encode", 3, 40)
    assert asyncio.run(builders._ask("127.0.0.1", port)) == BuildProgress(stage="encode", done=3, of=40)
    page.say("<script>", 3, 40)
    assert asyncio.run(builders._ask("127.0.0.1", port)) is None
    assert asyncio.run(builders._ask("127.0.0.1", 1)) is None


def test_the_result_of_a_build_becomes_its_status_and_stays() -> None:
    failed, done = Ending(137, "", NOW - 9), Ending(0, json.dumps(RESULT), NOW)

    plan = decide(replace(VIEW, endings=(failed, done)))

    status = plan.status
    assert (status.phase, status.documents, status.tokens, status.vocabulary) == (BuildPhase.SUCCEEDED, 63, 1000, 512)
    assert (status.manifest, status.manifest_sha256, status.chunks) == (RESULT["manifest"], SHA, "2/2")
    again = decide(replace(VIEW, build=VIEW.build.model_copy(update={"status": status}), has_job=False, now=NOW + 60))
    assert (again.make, again.over, again.status) == (False, True, status)


def test_a_build_that_kubernetes_gave_up_says_its_last_words() -> None:
    words = '{"stage": "plan", "done": 1, "of": 1}\ntessera_data: sources[0].uri: no files'

    plan = decide(replace(VIEW, job_failed="backoff limit reached", endings=(Ending(64, words, NOW),)))

    assert plan.status.phase is BuildPhase.FAILED
    assert plan.status.conditions is not None
    assert plan.status.conditions[0].message == "tessera_data: sources[0].uri: no files"
    mute = decide(replace(VIEW, job_failed="backoff limit reached"))
    assert mute.status.conditions is not None
    assert mute.status.conditions[0].message == "backoff limit reached"


@pytest.mark.parametrize("message", ["", "not json", "{}"])
def test_an_end_without_a_result_is_none(message: str) -> None:
    assert not decide(replace(VIEW, endings=(Ending(0, message, NOW),))).over


def test_jobs_and_pods_are_read_as_kubernetes_writes_them() -> None:
    ended = {"terminated": {"exitCode": 64, "message": "words", "finishedAt": "t"}}
    pods: list[dict[str, Any]] = [{"status": {"containerStatuses": [{"state": ended}]}}, {"status": {}}, {}]
    conditions = [{"type": "Complete", "status": "False"}, {"type": "Failed", "status": "True", "message": "limit"}]

    assert endings(pods, lambda text: NOW) == (Ending(64, "words", NOW),)
    assert job_failed({"status": {"conditions": conditions}}) == "limit"
    assert job_failed({"status": {"conditions": conditions[:1]}}) == job_failed(None) == ""
