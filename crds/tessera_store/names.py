"""Which names an object may have, below the root that a store was opened on.

A name is a relative path of plain parts joined by "/". No name can leave the root, and the parts that are still being
written (`PARTS`) can be neither named nor listed.
"""

from __future__ import annotations

MAX_NAME_BYTES = 900
"""S3 allows 1,024 bytes for prefix and name together."""

MAX_PART_BYTES = 255
"""The limit of a file name on the usual file systems."""

PARTS = ".tessera-parts"
"""Folder at a local store's root for objects that are not yet whole."""


def check_name(name: str) -> str:
    """`name`, if an object can be called so; else ValueError that says why not."""
    parts = name.split("/")
    if not name or "" in parts:
        raise ValueError(f"object name {name!r} is empty, absolute or has an empty part")
    if "." in parts or ".." in parts or parts[0] == PARTS:
        raise ValueError(f"object name {name!r} has a part that is not allowed ('.', '..' or {PARTS!r})")
    _check_characters(name)
    if len(name.encode()) > MAX_NAME_BYTES or any(len(part.encode()) > MAX_PART_BYTES for part in parts):
        raise ValueError(
            f"object name {name[:80]!r}... is longer than {MAX_NAME_BYTES} bytes ({MAX_PART_BYTES} a part)"
        )
    return name


def check_prefix(prefix: str) -> str:
    """`prefix`, if names can begin so (it may be empty, and end inside a part); else ValueError."""
    if prefix:
        check_name(prefix + "x")
    return prefix


def _check_characters(name: str) -> None:
    if any(ord(character) < 32 or ord(character) == 127 for character in name):
        raise ValueError(f"object name {name!r} has a control character")
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"object name {name!r} is not text (UTF-8)") from error
