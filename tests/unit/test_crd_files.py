"""The generated CustomResourceDefinitions: in step with the models, bounded, and tested rule by rule."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, Field

from tessera_api.crd import DEFINITIONS, Definition, custom_resource_definition, main
from tessera_api.field_path import model_within, rules_within
from tessera_api.resource import Document
from tessera_api.rules import Rule
from tessera_api.structural_schema import NotStructural, structural_schema
from tests.wire import dataset_build_cases, training_run_cases

CRDS = Path(__file__).parents[2] / "crds"
BY_KIND = pytest.mark.parametrize("definition", DEFINITIONS, ids=lambda definition: definition.kind)


def root_schema(definition: Definition) -> dict[str, Any]:
    """The schema that a definition carries."""
    version: dict[str, Any] = custom_resource_definition(definition)["spec"]["versions"][0]
    schema: dict[str, Any] = version["schema"]["openAPIV3Schema"]
    return schema


def nodes(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every part of a schema with its path."""
    yield path, schema
    for name, part in schema.get("properties", {}).items():
        yield from nodes(part, f"{path}.{name}")
    if "items" in schema:
        yield from nodes(schema["items"], f"{path}[]")
    if "additionalProperties" in schema:
        yield from nodes(schema["additionalProperties"], f"{path}[]")


def test_the_files_are_what_the_models_say() -> None:
    assert main(["--check", str(CRDS)]) == 0


def test_a_file_that_drifted_is_found_and_written_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / DEFINITIONS[0].file_name).write_text("old", encoding="utf-8")

    assert main(["--check", str(tmp_path)]) == 1
    names = [definition.file_name for definition in DEFINITIONS]
    assert capsys.readouterr().err.splitlines() == [
        f"{name} differs from the models: run `make crds`" for name in names
    ]
    assert main([str(tmp_path)]) == 0
    assert main(["--check", str(tmp_path)]) == 0
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(names)


@BY_KIND
def test_every_part_is_described_and_bounded_and_none_is_a_float(definition: Definition) -> None:
    faults = []
    for path, part in nodes(root_schema(definition)):
        if part.get("type") == "number":
            faults.append(f"{path} is a float")
        if (
            part.get("type") == "string"
            and not {"maxLength", "enum"} & part.keys()
            and path not in (".apiVersion", ".kind")
        ):
            faults.append(f"{path} is not bounded")
        if part.get("type") == "array" and not {"maxItems", "x-kubernetes-list-type"} <= part.keys():
            faults.append(f"{path} is not bounded or has no list type")
        bounded_map = {"maxProperties", "additionalProperties"} <= part.keys()
        if part.get("type") == "object" and "properties" not in part and not bounded_map:
            faults.append(f"{path} takes anything")
        if "description" not in part and not path.endswith("[]") and not path.startswith(".metadata"):
            faults.append(f"{path} is not described")

    assert faults == []


@BY_KIND
def test_status_starts_with_conditions_and_requires_nothing(definition: Definition) -> None:
    status = root_schema(definition)["properties"]["status"]

    assert next(iter(status["properties"])) == "conditions"
    assert status["properties"]["conditions"]["x-kubernetes-list-map-keys"] == ["type"]
    assert "required" not in status


@BY_KIND
def test_every_column_shows_a_field_that_exists(definition: Definition) -> None:
    paths = {path for path, _ in nodes(root_schema(definition))} | {".metadata.creationTimestamp"}

    shown = {re.sub(r"\[\?.*?\]", "[]", column.json_path) for column in definition.columns}

    assert shown - paths == set()


@BY_KIND
def test_every_rule_has_a_manifest_that_breaks_it(definition: Definition) -> None:
    cases = training_run_cases.KNOWN + dataset_build_cases.KNOWN
    said = [case.words for case in cases if case.manifest["kind"] == definition.kind]

    patterns = [re.sub(r"\\\{.*?\\\}", ".*", re.escape(rule.words)) for rule in rules_within(definition.model)]

    assert [pattern for pattern in patterns if not any(re.fullmatch(pattern, words) for words in said)] == []


@BY_KIND
def test_every_field_of_the_spec_is_frozen_or_known_to_be_mutable(definition: Definition) -> None:
    spec = model_within(definition.model.model_fields["spec"].annotation)
    assert spec is not None
    assert issubclass(spec, Document)

    fields = set(root_schema(definition)["properties"]["spec"]["properties"])

    free = {"nodes", "checkpoint", "suspend", "priorityClassName", "ttlSecondsAfterFinished", "activeDeadlineSeconds"}
    free |= {"podTemplate", "queueName", "hangSeconds", "stragglers", "drills"}
    mutable = {"TrainingRun": free, "DatasetBuild": set[str]()}[definition.kind]
    assert fields - {freeze.field for freeze in spec.FREEZES} == mutable


def test_a_rule_without_placeholders_says_the_same_to_the_server() -> None:
    rule = Rule("self.a", ("a",), bool, "it's 100% wrong", "mend it")

    assert rule.schema() == {"rule": "self.a", "message": "it's 100% wrong; mend it", "reason": "FieldValueInvalid"}


def test_a_rule_with_placeholders_becomes_a_format_that_the_server_fills_in() -> None:
    rule = Rule("self.a", ("a", "b.c"), bool, "it's {a}% of {b.c}", "mend it", field_path="a")

    assert rule.schema() == {
        "rule": "self.a",
        "messageExpression": r"'it\'s %s%% of %s; mend it'.format([self.a, self.b.c])",
        "fieldPath": ".a",
        "reason": "FieldValueInvalid",
    }
    assert rule.say({"a": 3, "b.c": 4}) == "it's 3% of 4"


class Unbounded(Document):
    """Holds a text without a bound."""

    text: str


class Floating(Document):
    """Holds a float."""

    share: float


class Untyped(Document):
    """Holds a list that does not say how its items are told apart."""

    items: Annotated[tuple[int, ...], Field(max_length=3)]


class Tree(Document):
    """Holds itself."""

    child: Tree | None = None


class Mapping(Document):
    """Holds a map without a bound."""

    anything: dict[str, int]


class Either(Document):
    """Holds one of two types."""

    value: int | bool


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Unbounded, "Unbounded.text: a text without maxLength"),
        (Floating, "Floating.share: a float; write it as a decimal string"),
        (Untyped, "Untyped.items: a list without x-kubernetes-list-type"),
        (Tree, "Tree.child: Tree holds itself, which a structural schema cannot say"),
        (Mapping, "Mapping.anything: a map without maxProperties"),
        (Either, "Either.value: a field of several types"),
    ],
)
def test_a_model_that_a_definition_cannot_say_stops_the_generator(model: type[BaseModel], words: str) -> None:
    with pytest.raises(NotStructural) as refused:
        structural_schema(model)

    assert str(refused.value).startswith(words)
