"""`--set path=value`: applied to the raw documents, refused when the path is unknown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tessera_api.manifest import load_manifests
from tessera_api.overrides import OverrideRefused, apply_set, apply_sets
from tessera_api.yaml_documents import YamlDocument, read_documents

EXAMPLES = Path(__file__).parents[2] / "examples"


def example(name: str) -> dict[str, Any]:
    """The raw document of an example."""
    [document] = read_documents((EXAMPLES / name).read_text(encoding="utf-8"), name)
    value: dict[str, Any] = document.value
    return value


def refusal(name: str, text: str) -> tuple[str, str]:
    """What is wrong with an override of an example, and the remedy."""
    with pytest.raises(OverrideRefused) as refused:
        apply_set(example(name), text)
    [item] = refused.value.items
    return item.problem, item.remedy


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("nodes.count=3", ("nodes", "count"), 3),
        ("spec.nodes.count=3", ("nodes", "count"), 3),
        ("training.tokens=12k", ("training", "tokens"), "12k"),
        ("training.tokens=12000", ("training", "tokens"), 12000),
        ("training.learningRate=1e-3", ("training", "learningRate"), "1e-3"),
        ("training.clipNorm=1", ("training", "clipNorm"), "1"),
        ("storage.uri=file:///srv/a=b:c", ("storage", "uri"), "file:///srv/a=b:c"),
        ("tiny-gpt:nodes.count=3", ("nodes", "count"), 3),
        ("TrainingRun/tiny-gpt:nodes.count=3", ("nodes", "count"), 3),
        ("data.mix[0].weight=0.5", ("data", "mix", 0, "weight"), "0.5"),
        ("data.mix[stdlib].weight=2", ("data", "mix", 0, "weight"), "2"),
        ("model={from: {run: other}}", ("model",), {"from": {"run": "other"}}),
        ("training.schedule.decayShare=0.1", ("training", "schedule", "decayShare"), "0.1"),
        ("nodes.count=many", ("nodes", "count"), "many"),
    ],
)
def test_an_override_changes_one_field_of_a_copy(text: str, path: tuple[str | int, ...], value: object) -> None:
    before = example("pretrain.yaml")

    changed: Any = apply_set(before, text)

    place, expected = changed["spec"], example("pretrain.yaml")
    holder: Any = expected["spec"]
    for part in path[:-1]:
        place, holder = place[part], holder[part]
    assert place[path[-1]] == value
    holder[path[-1]] = value
    assert changed == expected
    assert before == example("pretrain.yaml")


def test_an_override_makes_the_objects_that_the_manifest_left_out() -> None:
    document = example("pretrain.yaml")
    del document["spec"]["checkpoint"]

    assert apply_set(document, "checkpoint.keep=9")["spec"]["checkpoint"] == {"keep": 9}


def test_null_takes_a_field_out() -> None:
    changed = apply_set(apply_set(example("pretrain.yaml"), "model.recipe=null"), "model.from.run=other")

    assert changed["spec"]["model"] == {"from": {"run": "other"}}


def test_metadata_can_be_overridden() -> None:
    assert apply_set(example("pretrain.yaml"), "metadata.name=other")["metadata"] == {"name": "other"}


def test_an_override_goes_to_every_resource_that_has_the_field() -> None:
    files = [EXAMPLES / "dataset.yaml", EXAMPLES / "pretrain.yaml"]

    dataset, run = load_manifests(files, ["nodes.count=3", "sources[stdlib].uri=file:///a", "heldOut.share=0.5"])

    assert dataset.spec.model_dump(mode="json", by_alias=True)["sources"][0]["uri"] == "file:///a"
    assert run.spec.model_dump()["nodes"]["count"] == 3


def test_overrides_apply_in_order() -> None:
    [document] = apply_sets([YamlDocument("", example("pretrain.yaml"))], ["nodes.count=3", "nodes.count=4"])

    assert document.value["spec"]["nodes"]["count"] == 4


@pytest.mark.parametrize(
    ("text", "problem", "remedy"),
    [
        (
            "nodes.conut=3",
            'unknown field "conut"',
            "did you mean count? known here: count, min, max, spares, processesPerNode, accelerator",
        ),
        ("data.mix.weight=1", "weight belongs to an item of a list", "name one: [0], or [KEY], before .weight"),
        ("data.mix[3].weight=1", "the manifest has no item [3] there", "name one that is there: [0] stdlib"),
        ("nodes[0].count=1", "there is no list to take [0] from", "leave it out"),
        ("method.kind=1", 'unknown field "kind"', "the field before it has no parts"),
        ("other:nodes.count=1", "no resource is named other", "name one of: tiny-gpt"),
        ("nodes.count", "it is no PATH=VALUE", "write it as nodes.count=2"),
        ("=3", "it is no PATH=VALUE", "write it as nodes.count=2"),
        ("nodes..count=3", "'' is no field name", "write it as nodes.count=2 or mix[0].weight=2"),
    ],
)
def test_an_override_that_fits_nothing_is_refused(text: str, problem: str, remedy: str) -> None:
    assert refusal("pretrain.yaml", text) == (problem, remedy)


def test_all_overrides_that_do_not_fit_are_said_at_once() -> None:
    with pytest.raises(OverrideRefused) as refused:
        apply_sets([YamlDocument("", example("pretrain.yaml"))], ["nodes.a=1", "nodes.count=2", "b=1"])

    assert [item.text for item in refused.value.items] == ["nodes.a=1", "b=1"]
