"""The local loader and the API server are asked about the same spoilt manifests, and must not disagree."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st
from kubernetes import client
from kubernetes.client.exceptions import ApiException

from tessera_api.dataset_build import DatasetBuild
from tessera_api.field_path import rules_within
from tessera_api.manifest import ManifestErrors, parse_manifests
from tessera_api.resource import GROUP, VERSION
from tessera_api.training_run import TrainingRun
from tests.wire.contract_cases import GONE, PLURALS, TRAINING_RUN, edited
from tests.wire.contract_strategies import dataset_builds, training_runs

# What the server adds of its own when something else is wrong already.
NOISE = ("some validation rules were not checked", "accessor error", "evaluating rule")
RULES = [
    re.compile(re.sub(r"\\\{.*?\\\}", ".*", re.escape(rule.words)))
    for model in (TrainingRun, DatasetBuild)
    for rule in rules_within(model)
]
JUNK: tuple[Any, ...] = (GONE, None, True, False, -1, 0, 7, 10**7, 10**18, 1.5, "", "x", "A" * 1025, "1e-3", "0", "3k")
JUNK += ("file:///x", "s3://models", [], ["a"], ["a", "a"], {}, {"run": "a"}, [{}], [7], {"unheard": 1})


def paths(value: Any, path: str = "spec") -> Iterator[str]:
    """The path of everything in a raw document, as `edited` takes it."""
    yield path
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, part in parts:
        yield from paths(part, f"{path}.{name}")


@st.composite
def spoilt(draw: st.DrawFn) -> dict[str, Any]:
    """A resource in which one part was replaced by junk or taken out: usually wrong, sometimes still sound."""
    document = draw(training_runs() | dataset_builds())
    path = draw(st.sampled_from(list(paths(document["spec"]))))
    return edited(document, {path: draw(st.sampled_from(JUNK))})


def said_here(document: dict[str, Any]) -> list[tuple[str, str]]:
    """What the local loader has against a manifest: (path, problem)."""
    try:
        parse_manifests(json.dumps(document))
    except ManifestErrors as refused:
        return [(mistake.path, mistake.problem) for mistake in refused.mistakes]
    return []


def said_there(api: client.CustomObjectsApi, document: dict[str, Any]) -> list[tuple[str, str]]:
    """What the server has against it: (path, message), what it only adds left out."""
    try:
        api.create_namespaced_custom_object(
            GROUP, VERSION, "default", PLURALS[document["kind"]], document, dry_run="All", field_validation="Strict"
        )
    except ApiException as refused:
        status = json.loads(refused.body or "{}")
        causes = status.get("details", {}).get("causes") or [{"field": "", "message": status["message"]}]
        # Its check of the scale subresource writes the path with a dot before it.
        found = [(cause.get("field", "").removeprefix("."), cause["message"]) for cause in causes]
        return [(path, message) for path, message in found if not any(noise in message for noise in NOISE)]
    return []


@settings(max_examples=100, deadline=None)
@given(document=spoilt())
@example(document=edited(TRAINING_RUN, {"spec.nodes.count": -1}))  # the server's check of the scale speaks first
def test_the_server_blames_no_field_that_is_not_blamed_here_in_the_same_words(
    api: client.CustomObjectsApi, document: dict[str, Any]
) -> None:
    here, there = said_here(document), said_there(api, document)

    said = {at for at, message in there for where, problem in here if where == at and problem in message}
    # A document with an unknown field is refused before its fields are looked at, and no field is blamed. The server
    # tries a rule on fields that are wrong themselves, too; here a rule waits until what it reads is sound.
    follows = {at for at, message in there if here and any(rule.search(message) for rule in RULES)}
    unsaid = {at for at, _ in there} - said - follows - {""}
    assert unsaid == set(), (here, there)
    assert bool(here) == bool(there), (here, there)
