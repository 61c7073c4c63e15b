"""The CustomResourceDefinitions, generated from the models: `python -m tessera_api.crd [--check] DIR`.

Owns what the API server shows of a resource: names, printer columns, categories and subresources. The files are
written whole or not at all; `--check` writes nothing and fails where a file differs from the models.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from tessera_api.dataset_build import DatasetBuild
from tessera_api.resource import GROUP, VERSION, Document
from tessera_api.structural_schema import Schema, structural_schema
from tessera_api.training_run import TrainingRun

CATEGORY = "tessera"

_HEADER = "# Generated from the models in crds/tessera_api by `make crds`; changes here are lost.\n"


@dataclass(frozen=True)
class Column:
    """A column of `kubectl get`; a wide one is shown with `-o wide` only."""

    name: str
    json_path: str
    description: str
    type: Literal["string", "integer", "date"] = "string"
    wide: bool = False

    def manifest(self) -> dict[str, Any]:
        """The column as the definition has it."""
        shown = {"name": self.name, "type": self.type, "jsonPath": self.json_path, "description": self.description}
        return {**shown, "priority": 1} if self.wide else shown


@dataclass(frozen=True)
class Definition:
    """What a CustomResourceDefinition says beside the schema."""

    model: type[Document]
    plural: str
    short_name: str
    columns: tuple[Column, ...]
    scale: tuple[str, str] | None = None
    """Paths of the wanted and the present number of replicas."""

    @property
    def kind(self) -> str:
        """The kind, which is the model's name."""
        return self.model.__name__

    @property
    def file_name(self) -> str:
        """Name of the generated file."""
        return f"{self.plural}.{GROUP}.yaml"


_AGE = Column("AGE", ".metadata.creationTimestamp", "Time since the resource was created.", "date")

DEFINITIONS = (
    Definition(
        model=TrainingRun,
        plural="trainingruns",
        short_name="trun",
        columns=(
            Column("PHASE", ".status.phase", "One word for people."),
            Column("STEP", ".status.step", "Steps done of all steps."),
            Column("LOSS", ".status.loss", "Loss of the last step."),
            Column("TOK/S", ".status.tokensPerSecond", "Tokens trained on in a second."),
            Column("MFU", ".status.mfu", "Share of the peak FLOPs in use."),
            Column("NODES", ".status.nodes", "Nodes that train of those wanted."),
            Column("RESTARTS", ".status.restarts", "Generations after the first.", "integer"),
            Column("GOODPUT", ".status.goodput", "Share of the node-seconds that went into steps that count."),
            Column("ETA", ".status.eta", "Time left at the present rate."),
            _AGE,
            Column("MODEL", ".spec.model.recipe", "The recipe of the model.", wide=True),
            Column("TOKENS", ".spec.training.tokens", "Tokens to train on.", wide=True),
            Column(
                "REASON",
                '.status.conditions[?(@.type=="Succeeded")].reason',
                "Why the run stands where it is.",
                wide=True,
            ),
        ),
        scale=(".spec.nodes.count", ".status.activeNodes"),
    ),
    Definition(
        model=DatasetBuild,
        plural="datasetbuilds",
        short_name="dsb",
        columns=(
            Column("PHASE", ".status.phase", "One word for people."),
            Column("CHUNKS", ".status.chunks", "Chunks done of all chunks."),
            Column("DOCUMENTS", ".status.documents", "Documents in the dataset.", "integer"),
            Column("TOKENS", ".status.tokens", "Tokens in the dataset.", "integer"),
            _AGE,
            Column("MANIFEST", ".status.manifest", "The dataset's manifest.", wide=True),
            Column(
                "REASON",
                '.status.conditions[?(@.type=="Succeeded")].reason',
                "Why the build stands where it is.",
                wide=True,
            ),
        ),
    ),
)


def custom_resource_definition(definition: Definition) -> dict[str, Any]:
    """The whole CustomResourceDefinition as the API server takes it."""
    subresources: dict[str, Any] = {"status": {}}
    if definition.scale:
        wanted, present = definition.scale
        subresources["scale"] = {"specReplicasPath": wanted, "statusReplicasPath": present}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{definition.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": definition.kind,
                "listKind": f"{definition.kind}List",
                "plural": definition.plural,
                "singular": definition.kind.lower(),
                "shortNames": [definition.short_name],
                "categories": [CATEGORY],
            },
            "scope": "Namespaced",
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": _root_schema(definition.model)},
                    "subresources": subresources,
                    "additionalPrinterColumns": [column.manifest() for column in definition.columns],
                }
            ],
        },
    }


def _root_schema(model: type[Document]) -> Schema:
    """The schema of the whole resource: of it Kubernetes owns apiVersion, kind and metadata."""
    schema = {
        "description": (model.__doc__ or "").strip(),
        "type": "object",
        "x-kubernetes-validations": [rule.schema() for rule in model.RULES],
    }
    parts: dict[str, Schema] = {
        "apiVersion": {"type": "string", "description": "Version of the schema that the object is written in."},
        "kind": {"type": "string", "description": "The kind of the object."},
        # Only the name, so that a rule can blame it; the server checks the rest itself.
        "metadata": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 253}}},
    }
    for name in ("spec", "status"):
        field = model.model_fields[name]
        part = next(t for t in (field.annotation, *getattr(field.annotation, "__args__", ())) if _is_document(t))
        parts[name] = {**structural_schema(part), "description": field.description}
    return {**schema, "properties": parts, "required": ["metadata", "spec"]}


def _is_document(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Document)


def render(definition: Definition) -> str:
    """The text of the generated file."""
    manifest = custom_resource_definition(definition)
    return _HEADER + yaml.dump(manifest, Dumper=_Plain, sort_keys=False, width=120, allow_unicode=True)


class _Plain(yaml.SafeDumper):
    """Writes every value out: generated YAML without anchors is easier to read and to compare."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def differing_files(folder: Path) -> list[str]:
    """Names of the generated files that are missing or not what the models say."""
    names = []
    for definition in DEFINITIONS:
        file = folder / definition.file_name
        if not file.exists() or file.read_text(encoding="utf-8") != render(definition):
            names.append(definition.file_name)
    return names


def write_files(folder: Path) -> None:
    """Write every generated file whole."""
    for definition in DEFINITIONS:
        partial = folder / f".{definition.file_name}.partial"
        partial.write_text(render(definition), encoding="utf-8")
        os.replace(partial, folder / definition.file_name)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command: 0 when the files are written, or with `--check` when they match."""
    parser = argparse.ArgumentParser(prog="python -m tessera_api.crd", description="Generate the resource definitions.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file differs from the models")
    parser.add_argument("folder", type=Path, metavar="DIR", help="the folder of the generated files")
    options = parser.parse_args(arguments)
    if not options.check:
        write_files(options.folder)
        return 0
    differing = differing_files(options.folder)
    for name in differing:
        print(f"{name} differs from the models: run `make crds`", file=sys.stderr)
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
