"""Why a run cannot begin: every reason has words of its own, and everything being there, it begins."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from tessera_api.dataset_build import DatasetBuildStatus
from tessera_api.recipes import RecipeName, recipe
from tessera_api.resolved_run import ResolvedOrigin
from tessera_api.training import Lora
from tessera_api.training_run import Method
from tessera_api.training_run_status import TrainingRunStatus
from tessera_operator.core.resolve import Ingredients, Surroundings, resolve
from tessera_operator.core.run_decision import decide
from tessera_operator.core.view import OriginSeen, View
from tessera_operator.profiles import Profile
from tests.unit.operator_world import NOW, a_run, a_start, a_view, built, condition

SHORT = built().model_copy(update={"tokens": 9})
FAILED_BUILD = DatasetBuildStatus(conditions=(condition("Succeeded", "False", message="no"),))
CHATS = built().model_copy(update={"learned": 5000})
CHAINED = a_run(model={"from": {"run": "base"}})
FINETUNE = CHAINED.model_copy(update={"spec": CHAINED.spec.model_copy(update={"method": Method.FINETUNE})})


def a_base(status: str, start: bool = True, **more: Any) -> OriginSeen:
    said = TrainingRunStatus(conditions=(condition("Succeeded", status, message="bad loss"),), **more)
    resolved = a_start().model_copy(update={"storage": "s3://models/runs/base", "run": renamed("base")})
    return OriginSeen(said, resolved if start else None)


def renamed(name: str) -> Any:
    run = a_run()
    return run.model_copy(update={"metadata": run.metadata.model_copy(update={"name": name})})


def before_the_start(**change: Any) -> View:
    return a_view(**{"start": None, "pods": (), "answer": None, "datasets": {"stdlib": built()}, **change})


def taught_otherwise() -> OriginSeen:
    base = a_base("True")
    assert base.start is not None
    other = base.start.datasets["stdlib"].model_copy(update={"tokenizer_sha256": "9" * 64})
    return OriginSeen(base.status, base.start.model_copy(update={"datasets": {"stdlib": other}}))


def with_an_adapter() -> OriginSeen:
    base = a_base("True")
    assert base.start is not None
    training = base.start.run.spec.training.model_copy(update={"lora": Lora(rank=8, alpha=Decimal(16))})
    spec = base.start.run.spec.model_copy(update={"training": training})
    run = base.start.run.model_copy(update={"spec": spec})
    return OriginSeen(base.status, base.start.model_copy(update={"run": run}))


@pytest.mark.parametrize(
    ("change", "reason", "words"),
    [
        ({"datasets": {"stdlib": None}}, "DatasetMissing", "stdlib is no DatasetBuild"),
        ({"datasets": {"stdlib": DatasetBuildStatus()}}, "DatasetNotReady", "is still being built"),
        ({"datasets": {"stdlib": FAILED_BUILD}}, "DatasetFailed", "could not be built: no"),
        ({"datasets": {"stdlib": SHORT}}, "DatasetsUnfit", "stdlib has 9 training tokens"),
        ({"profiles": frozenset({"h100"})}, "UnknownAccelerator", "profiles of this installation: h100"),
        ({"run": a_run(storage={"uri": "file:///srv/runs"})}, "StorageNotShared", "give an s3:// address"),
        ({"run": CHAINED}, "OriginMissing", "base is no TrainingRun of this namespace"),
        ({"run": a_run(model={"from": {"run": "gpt"}})}, "OriginIsItself", "gpt is this run"),
        ({"run": CHAINED, "origin": OriginSeen(TrainingRunStatus(), None)}, "OriginNotReady", "base has not ended"),
        ({"run": CHAINED, "origin": a_base("Unknown", step="4/97")}, "OriginNotReady", "not ended, at step 4/97"),
        ({"run": CHAINED, "origin": a_base("False")}, "OriginFailed", "base has failed: bad loss"),
        ({"run": CHAINED, "origin": a_base("True", start=False)}, "OriginForgotten", "run.json is gone"),
        (
            {"run": CHAINED, "origin": with_an_adapter()},
            "OriginHasAdapter",
            "model.from.uri: s3://models/runs/base/export",
        ),
        ({"datasets": {"stdlib": CHATS}}, "DatasetsUnfit", "stdlib holds conversations, and method is pretrain"),
        ({"run": FINETUNE, "origin": a_base("True")}, "DatasetsUnfit", "stdlib holds text, and method is finetune"),
        (
            {"run": CHAINED, "origin": taught_otherwise()},
            "DatasetsUnfit",
            "base was trained with tokenizer 999999999999",
        ),
    ],
)
def test_a_run_that_cannot_begin_says_why(change: dict[str, object], reason: str, words: str) -> None:
    plan = decide(before_the_start(**change))

    assert not plan.begin
    assert plan.blocked is not None
    assert plan.blocked.reason == reason
    assert words in plan.blocked.message


def test_a_run_begins_once_the_run_that_it_starts_from_has_succeeded() -> None:
    assert decide(before_the_start(run=CHAINED, origin=a_base("True"))).begin


def test_a_run_takes_dimensions_and_weights_of_the_run_that_it_starts_from() -> None:
    origin = a_base("True").start
    assert origin is not None
    wide = origin.model_copy(update={"recipe": recipe(RecipeName.LLAMA_1M)})
    around = Surroundings("c:1", {}, NOW, NOW)

    resolved = resolve(CHAINED, Ingredients({"stdlib": built()}, wide), Profile(), around)

    assert resolved.recipe == wide.recipe
    assert resolved.origin == ResolvedOrigin(run="base", storage="s3://models/runs/base")


def test_a_later_start_asks_for_nothing_that_the_first_one_had() -> None:
    again = a_run(TrainingRunStatus(start=2), model={"from": {"run": "base"}})

    assert decide(before_the_start(run=again, datasets={}, origin=None)).begin
