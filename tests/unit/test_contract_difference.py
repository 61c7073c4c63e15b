"""The difference between two specs, and which changes may be made to a resource that exists."""

from __future__ import annotations

from pathlib import Path

from tessera_api.difference import Change, difference
from tessera_api.manifest import Resource, load_manifests

EXAMPLES = Path(__file__).parents[2] / "examples"
REMEDY = "create a new run, which can start from this one with model.from.run"


def run(*sets: str) -> Resource:
    """The example's run with overrides."""
    [resource] = load_manifests([EXAMPLES / "pretrain.yaml"], sets)
    return resource


def test_nodes_and_checkpoint_policy_may_change() -> None:
    changes = difference(run().spec, run("nodes.count=3", "checkpoint.every=50").spec)

    assert changes == [
        Change("spec.checkpoint.every", 500, 50, True, ""),
        Change("spec.nodes.count", 4, 3, True, ""),
    ]


def test_everything_else_may_not() -> None:
    changes = difference(run().spec, run("training.seed=8", "storage.uri=file:///a", "data.mix[0].weight=2").spec)

    assert [(change.path, change.mutable, change.problem) for change in changes] == [
        ("spec.data.mix[0].weight", False, f"data is frozen once the resource exists: {REMEDY}"),
        ("spec.storage.uri", False, f"storage is frozen once the resource exists: {REMEDY}"),
        ("spec.training.seed", False, f"training is frozen once the resource exists: {REMEDY}"),
    ]


def test_a_field_that_comes_or_goes_is_a_change() -> None:
    [change] = difference(run().spec, run("training.schedule.decayShare=0.1").spec)

    assert str(change) == (
        f"spec.training.schedule.decayShare: None -> 0.1 (training is frozen once the resource exists: {REMEDY})"
    )


def test_another_spelling_of_a_number_is_no_change() -> None:
    respelled = run("training.learningRate=0.00060", "training.tokens=400000000", "training.clipNorm=1.0")

    assert difference(run().spec, respelled.spec) == []
