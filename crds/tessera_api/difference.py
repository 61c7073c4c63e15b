"""The difference between the spec that a resource was created with and another, and whether it may be.

Values are compared by what they mean: "6e-4" and "0.0006" are the same learning rate.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tessera_api.field_path import Path, path_text
from tessera_api.resource import Document


@dataclass(frozen=True)
class Change:
    """One field that differs; `None` stands for a field that is not there."""

    path: str
    old: object
    new: object
    mutable: bool
    problem: str
    """Why it may not change, in the API server's words; empty when it may."""

    def __str__(self) -> str:
        return f"{self.path}: {self.old} -> {self.new}" + (f" ({self.problem})" if self.problem else "")


def difference(old: Document, new: Document) -> list[Change]:
    """Every field in which two specs of one kind differ, in order of the paths."""
    before, after = old.model_dump(by_alias=True), new.model_dump(by_alias=True)
    frozen = {freeze.field: freeze.words for freeze in new.FREEZES}
    changes = []
    for path, left, right in _differences(before, after, ()):
        problem = frozen.get(str(path[0]), "")
        changes.append(Change(path_text(("spec", *path)), left, right, not problem, problem))
    return changes


def _differences(old: Any, new: Any, path: Path) -> Iterator[tuple[Path, object, object]]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from _differences(old.get(key), new.get(key), (*path, key))
    elif isinstance(old, list | tuple) and isinstance(new, list | tuple) and len(old) == len(new):
        for index, (left, right) in enumerate(zip(old, new, strict=True)):
            yield from _differences(left, right, (*path, index))
    elif old != new:
        yield path, old, new
