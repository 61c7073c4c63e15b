"""Overrides from the command line: `--set nodes.count=2`, applied to raw documents before they are judged.

A path is relative to the spec, or starts with `spec` or `metadata`; an item of a list is named by its index or its key
(`sources[0].uri`, `sources[stdlib].uri`). `NAME:` or `KIND/NAME:` before the path picks a resource; without it the
override goes to every resource that has such a field. A value of `null` takes the field out. What must stay true: an
unknown path is refused.
"""

import copy
import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from tessera_api.dataset_build import DatasetBuild
from tessera_api.field_path import field_of, is_list, model_within
from tessera_api.resource import Document, attribute_names
from tessera_api.training_run import TrainingRun
from tessera_api.yaml_documents import YamlDocument, read_value

_ROOTS = ("spec", "metadata")
_MODELS: dict[str, type[Document]] = {"TrainingRun": TrainingRun, "DatasetBuild": DatasetBuild}
_STEP = re.compile(r"([A-Za-z0-9]+)((?:\[[^\[\]]+\])*)")
_KEYS = ("name", "dataset")
_INDEX = re.compile(r"\[([^\[\]]+)\]")


@dataclass(frozen=True)
class RefusedSet:
    """One override that cannot be applied, and why."""

    text: str
    path: str
    problem: str
    remedy: str


class OverrideRefused(Exception):
    """Overrides that cannot be applied; `items` has each of them."""

    def __init__(self, items: Sequence[RefusedSet]) -> None:
        self.items = tuple(items)
        super().__init__("; ".join(f"--set {item.text}: {item.problem} (remedy: {item.remedy})" for item in items))


@dataclass(frozen=True)
class _Item:
    """An item of a list, by its index or its key."""

    place: str


Step = str | _Item


@dataclass(frozen=True)
class _Set:
    """An override taken apart: for whom (empty: for all), where (names and list places), and the value as text."""

    text: str
    target: str
    path: str
    steps: tuple[Step, ...]
    value: str


def apply_set(document: dict[str, Any], text: str) -> dict[str, Any]:
    """A copy of one raw document with the override applied; raises `OverrideRefused`."""
    [result] = apply_sets([YamlDocument("", document)], [text])
    changed: dict[str, Any] = result.value
    return changed


def apply_sets(documents: Sequence[YamlDocument], texts: Sequence[str]) -> list[YamlDocument]:
    """Copies of the documents with the overrides applied in order; raises `OverrideRefused` with all that fail."""
    changed = list(documents)
    refused: list[RefusedSet] = []
    for text in texts:
        try:
            changed = _apply(changed, _parse(text))
        except OverrideRefused as cause:
            refused += cause.items
    if refused:
        raise OverrideRefused(refused)
    return changed


def _parse(text: str) -> _Set:
    left, sign, value = text.partition("=")
    target, colon, path = left.rpartition(":")
    if not sign or not path:
        raise _refusal(text, path, "it is no PATH=VALUE", "write it as nodes.count=2")
    steps: list[Step] = []
    for part in path.split("."):
        match = _STEP.fullmatch(part)
        if match is None:
            raise _refusal(text, path, f"{part!r} is no field name", "write it as nodes.count=2 or mix[0].weight=2")
        steps.append(match[1])
        steps += [_Item(place) for place in _INDEX.findall(match[2])]
    rooted = steps if steps[0] in _ROOTS else ["spec", *steps]
    return _Set(text, target if colon else "", path, tuple(rooted), value)


def _apply(documents: Sequence[YamlDocument], override: _Set) -> list[YamlDocument]:
    named = [document for document in documents if _is_target(document, override.target)]
    if not named:
        raise _refusal(override.text, override.path, f"no resource is named {override.target}", _names(documents))
    results: list[YamlDocument] = []
    refusals: list[OverrideRefused] = []
    for document in documents:
        try:
            results.append(_applied(document, override) if document in named else document)
        except OverrideRefused as refused:
            refusals.append(refused)
            results.append(document)
    if len(refusals) == len(named):
        raise min(refusals, key=_distance)
    return results


def _applied(document: YamlDocument, override: _Set) -> YamlDocument:
    value = copy.deepcopy(document.value)
    _apply_to(value, override)
    return replace(document, value=value)


def _distance(refused: OverrideRefused) -> bool:
    """Which refusal to show of several: one that knows a near name says more than one that does not."""
    return "did you mean" not in refused.items[0].remedy


def _is_target(document: YamlDocument, target: str) -> bool:
    value = document.value
    if not isinstance(value, dict) or value.get("kind") not in _MODELS:
        return False
    metadata = value.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    return target in ("", name, f"{value['kind']}/{name}")


def _names(documents: Sequence[YamlDocument]) -> str:
    values = [document.value for document in documents if _is_target(document, "")]
    names = [str(value["metadata"].get("name")) for value in values if isinstance(value.get("metadata"), dict)]
    return f"name one of: {', '.join(names)}" if names else "give a manifest with a TrainingRun or a DatasetBuild"


def _apply_to(root: dict[str, Any], override: _Set) -> None:
    """Walk from the root to the field along resource and model alike, making the objects that are missing."""
    model: type[BaseModel] | None = _MODELS[root["kind"]]
    place: Any = root
    field: FieldInfo | None = None
    for step in override.steps[:-1]:
        at, field = _resolve(step, place, (model, field), override)
        if isinstance(step, str):
            model = model_within(field.annotation)
            place.setdefault(at, [] if is_list(field.annotation) else {})
        place = place[at]
    at, field = _resolve(override.steps[-1], place, (model, field), override)
    _put(place, at, _typed(override.value, field.rebuild_annotation()))


def _resolve(
    step: Step, place: object, known: tuple[type[BaseModel] | None, FieldInfo | None], override: _Set
) -> tuple[str | int, FieldInfo]:
    """The key or index of a step in the object or list where it is taken, and the field that it leads to."""
    model, field = known
    if isinstance(step, _Item):
        if isinstance(place, list) and field is not None:
            return _index(step, place, override), field
        raise _refusal(override.text, override.path, f"there is no list to take [{step.place}] from", "leave it out")
    if isinstance(place, list):
        remedy = f"name one: [0], or [KEY], before .{step}"
        raise _refusal(override.text, override.path, f"{step} belongs to an item of a list", remedy)
    found = field_of(model, step) if model else None
    if found is None or not isinstance(place, dict):
        raise _unknown(override, step, model)
    return step, found


def _index(item: _Item, items: list[Any], override: _Set) -> int:
    if item.place.isdigit() and int(item.place) < len(items):
        return int(item.place)
    keys = [next((each[key] for key in _KEYS if key in each), "") if isinstance(each, dict) else "" for each in items]
    if item.place in keys:
        return keys.index(item.place)
    known = ", ".join(f"[{index}] {key}".strip() for index, key in enumerate(keys))
    remedy = f"name one that is there: {known}" if known else "add the item to the manifest"
    raise _refusal(override.text, override.path, f"the manifest has no item [{item.place}] there", remedy)


def _put(holder: Any, step: str | int, value: Any) -> None:
    if value is not None:
        holder[step] = value
    elif isinstance(holder, dict):
        holder.pop(step, None)
    else:
        holder.pop(int(step))


def _typed(text: str, annotation: Any) -> Any:
    """The value as YAML, or as text where only a text fits the field: 6e-4 needs no quotes on the command line."""
    value = read_value(text)
    if value is None or isinstance(value, str):
        return value
    adapter: TypeAdapter[Any] = TypeAdapter(annotation)
    try:
        adapter.validate_python(value)
    except ValidationError:
        try:
            adapter.validate_python(text)
        except ValidationError:
            return value
        return text
    return value


def _unknown(override: _Set, step: str, model: type[BaseModel] | None) -> OverrideRefused:
    known = list(attribute_names(model)) if model else []
    near = difflib.get_close_matches(step, known, n=1, cutoff=0.5)
    remedy = f"known here: {', '.join(known)}" if known else "the field before it has no parts"
    remedy = f"did you mean {near[0]}? {remedy}" if near else remedy
    return _refusal(override.text, override.path, f'unknown field "{step}"', remedy)


def _refusal(text: str, path: str, problem: str, remedy: str) -> OverrideRefused:
    return OverrideRefused([RefusedSet(text, path, problem, remedy)])
