"""Manifests: YAML files read into resources, or every mistake in them at once.

Owns the order in which things happen: read all files, apply the overrides to the raw documents, then judge each
document whole. Nothing is returned unless everything is sound.
"""

import difflib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

from tessera_api.dataset_build import DatasetBuild
from tessera_api.field_path import path_text
from tessera_api.findings import findings, without_nulls
from tessera_api.overrides import OverrideRefused, apply_sets
from tessera_api.resource import API_VERSION
from tessera_api.training_run import TrainingRun
from tessera_api.yaml_documents import YamlDocument, read_documents

Resource = TrainingRun | DatasetBuild

MODELS: dict[str, type[TrainingRun] | type[DatasetBuild]] = {"TrainingRun": TrainingRun, "DatasetBuild": DatasetBuild}

_LONGEST_VALUE = 80


@dataclass(frozen=True)
class Mistake:
    """One thing that is wrong: in which file and resource, at which path, what stands there, and what to do."""

    source: str
    line: int
    resource: str
    path: str
    value: object
    problem: str
    remedy: str

    def __str__(self) -> str:
        place = f"{self.source}:{self.line}" if self.line else self.source
        shown = json.dumps(self.value, default=str, ensure_ascii=False)
        shown = shown if len(shown) <= _LONGEST_VALUE else f"{shown[:_LONGEST_VALUE]}..."
        value = "" if self.value is None else f" (found {shown})"
        parts = [part for part in (place, self.resource, self.path) if part]
        return f"{': '.join(parts)}: {self.problem}{value}\n    remedy: {self.remedy}"


class ManifestErrors(Exception):
    """The manifests are refused; `mistakes` has everything that is wrong with them."""

    def __init__(self, mistakes: Sequence[Mistake]) -> None:
        self.mistakes = tuple(mistakes)
        count = "1 mistake" if len(self.mistakes) == 1 else f"{len(self.mistakes)} mistakes"
        super().__init__("\n".join([f"{count}; nothing was started:", *map(str, self.mistakes)]))


def load_manifests(files: Sequence[FilePath], sets: Sequence[str] = ()) -> list[Resource]:
    """The resources of the files in order, with `--set` overrides applied; raises `ManifestErrors`."""
    documents: list[YamlDocument] = []
    mistakes: list[Mistake] = []
    for file in files:
        try:
            read = read_documents(file.read_text(encoding="utf-8"), str(file))
            documents += read
            if not read:
                mistakes.append(Mistake(str(file), 0, "", "", None, "there is no resource in it", "leave the file out"))
        except (OSError, UnicodeDecodeError) as cause:
            reason = cause.strerror if isinstance(cause, OSError) else str(cause)
            mistakes.append(Mistake(str(file), 0, "", "", None, f"cannot be read: {reason}", "check the file's path"))
    try:
        return _judge(apply_sets(documents, sets), mistakes)
    except OverrideRefused as refused:
        mistakes += [Mistake("--set", 0, "", item.path, item.text, item.problem, item.remedy) for item in refused.items]
        return _judge(documents, mistakes)


def parse_manifests(text: str, source: str = "manifest", sets: Sequence[str] = ()) -> list[Resource]:
    """The resources of a text; raises `ManifestErrors` (an override that is refused raises `OverrideRefused`)."""
    return _judge(apply_sets(read_documents(text, source), sets), [])


def _judge(documents: Sequence[YamlDocument], mistakes: list[Mistake]) -> list[Resource]:
    resources: list[Resource] = []
    for document in documents:
        found = _mistakes(document)
        mistakes += found
        if not found:
            model = MODELS[document.value["kind"]]
            resources.append(model.parse(without_nulls(model, document.value)))
    mistakes += _twice(documents)
    if not documents and not mistakes:
        mistakes.append(Mistake("manifest", 0, "", "", None, "there is no resource in it", "give a manifest's path"))
    if mistakes:
        raise ManifestErrors(sorted(mistakes, key=lambda mistake: (mistake.source, mistake.line)))
    return resources


def _mistakes(document: YamlDocument) -> list[Mistake]:
    label = resource_label(document)
    found = [
        Mistake(document.source, fault.line, label, fault.path, None, fault.problem, "correct the text")
        for fault in document.faults
    ]
    if document.value is None:
        return found
    kind = document.value.get("kind") if isinstance(document.value, dict) else None
    if not isinstance(kind, str) or kind not in MODELS:
        near = difflib.get_close_matches(kind, MODELS, n=1) if isinstance(kind, str) else []
        known = f"did you mean {near[0]}?" if near else f"use {' or '.join(MODELS)}"
        line = document.line(("kind",))
        found.append(Mistake(document.source, line, "", "kind", kind, "no kind of ours", known))
        return found + (_mistakes_of_kind(document, {**document.value, "kind": near[0]}) if near else [])
    return found + _mistakes_of_kind(document, document.value)


def _mistakes_of_kind(document: YamlDocument, value: dict[str, Any]) -> list[Mistake]:
    """What is wrong with a document whose kind is known."""
    model, label, found = MODELS[value["kind"]], resource_label(document), []
    if "apiVersion" not in value:
        remedy = f"add apiVersion: {API_VERSION}"
        found.append(Mistake(document.source, document.line(()), label, "apiVersion", None, "Required value", remedy))
    for item in findings(model, without_nulls(model, value)):
        line = document.line(item.path)
        found.append(Mistake(document.source, line, label, path_text(item.path), item.value, item.problem, item.remedy))
    return found


def _twice(documents: Sequence[YamlDocument]) -> list[Mistake]:
    seen: dict[str, YamlDocument] = {}
    mistakes = []
    for document in documents:
        label = resource_label(document)
        if "/" in label and label in seen:
            first = f"{seen[label].source}:{seen[label].line(())}"
            remedy = "give it another name, or leave one of the two out"
            mistakes.append(
                Mistake(document.source, document.line(()), label, "", None, f"stands already in {first}", remedy)
            )
        seen.setdefault(label, document)
    return mistakes


def resource_label(document: YamlDocument) -> str:
    """KIND/NAME of a raw document, as far as it has them."""
    if not isinstance(document.value, dict):
        return ""
    kind, metadata = document.value.get("kind"), document.value.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    return "/".join(str(part) for part in (kind, name) if isinstance(part, str))
