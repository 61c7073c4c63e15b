"""A folder of compiled code as one sealed object, and back.

Code that comes from elsewhere is run by trainers: what does not carry the seal of a key of this run is never unpacked,
so that whoever can write to the storage cannot have his code run. An object is the number of the key, HMAC-SHA256
under it over the object's name and the packed folder, and the packed folder (tar, gzip).

Torch's own bundle of a compiler's cache (`torch.compiler.save_cache_artifacts`) leaves out what a C++ compiler made,
which on a CPU is nearly all of the time; the whole folder of Inductor's cache can be copied to another path.
"""

from __future__ import annotations

import gzip
import hashlib
import hmac
import io
import os
import platform
import tarfile
import uuid
from collections.abc import Iterable
from pathlib import Path

from tessera_api.keys import Keys

ROOT = "compiled"
MAX_BYTES = 256 << 20
"""Of a packed folder, and of what one may unpack to."""
_NUMBER_BYTES, _SEAL_BYTES = 8, 32
_WHAT = b"tessera compiled code\0"
_LEFT_OUT = ("locks", "tmp")
"""Folders of Inductor's that hold no code."""


class NotOurs(Exception):
    """It carries the seal of no key that this node holds, or is no such object."""


class TooMuch(Exception):
    """The folder is larger than is worth carrying."""


def object_name(fingerprint: str) -> str:
    """Where the code of machines of this kind lies: what was compiled for one processor may crash on another.
    `fingerprint`: of the node's numerics, which has torch's version and build, and the device."""
    facts = "\n".join((fingerprint, platform.python_version(), platform.machine(), _processor()))
    return f"{ROOT}/{hashlib.sha256(facts.encode()).hexdigest()[:24]}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((" ".join(sorted(line.split())) for line in lines if line.startswith(("flags", "Features"))), "")


def contents(folder: Path) -> str:
    """What distinguishes the folder's content: names and sizes of its files. Empty where there are none."""
    found = sorted(f"{path.relative_to(folder)} {path.stat().st_size}" for path in _files(folder))
    return hashlib.sha256("\n".join(found).encode()).hexdigest() if found else ""


def pack(folder: Path, name: str, keys: Keys) -> bytes:
    """The object called `name`. Raises TooMuch, and OSError where a file goes while it is read."""
    if sum(path.stat().st_size for path in _files(folder)) > MAX_BYTES:
        raise TooMuch(f"compiled code has more than {MAX_BYTES >> 20} MiB: it is not carried to new nodes")
    packed = io.BytesIO()
    with gzip.open(packed, "wb", compresslevel=1) as stream, tarfile.open(fileobj=stream, mode="w") as tar:
        for path in _files(folder):
            tar.add(path, str(path.relative_to(folder)), recursive=False)
    number = keys.number.to_bytes(_NUMBER_BYTES, "big")
    return number + _seal(keys, name, packed.getbuffer()) + packed.getvalue()


def unpack(data: bytes, name: str, ring: Iterable[Keys], folder: Path) -> None:
    """Puts the object's files into the folder; each appears whole, and none that is there is replaced. Raises NotOurs
    before anything is written, and OSError."""
    number, seal, packed = data[:_NUMBER_BYTES], data[_NUMBER_BYTES:][:_SEAL_BYTES], memoryview(data)
    packed = packed[_NUMBER_BYTES + _SEAL_BYTES :]
    keys = next((keys for keys in ring if keys.number.to_bytes(_NUMBER_BYTES, "big") == number), None)
    if keys is None or not hmac.compare_digest(seal, _seal(keys, name, packed)):
        raise NotOurs(f"{name} carries the seal of no key that this node holds")
    try:
        with gzip.open(io.BytesIO(packed), "rb") as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
            _unpack(tar, folder)
    except (tarfile.TarError, EOFError, gzip.BadGzipFile) as error:
        raise NotOurs(f"{name} is no packed folder: {error}") from error


def _unpack(tar: tarfile.TarFile, folder: Path) -> None:
    left = MAX_BYTES
    for member in tar:
        left -= member.size
        target = folder / member.name
        inside = ".." not in Path(member.name).parts and not Path(member.name).is_absolute()
        if not member.isreg() or not inside or left < 0:
            raise tarfile.TarError(f"{member.name!r} cannot be a file of it")
        source = tar.extractfile(member)
        if target.exists() or source is None:
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{uuid.uuid4().hex}.part")
        try:
            part.write_bytes(source.read())
            part.chmod(0o700)
            os.replace(part, target)
        finally:
            part.unlink(missing_ok=True)


def _files(folder: Path) -> list[Path]:
    found = []
    for path in folder.rglob("*"):
        relative = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in relative.parts)
        if not hidden and relative.parts[0] not in _LEFT_OUT and path.is_file() and not path.is_symlink():
            found.append(path)
    return sorted(found)


def _seal(keys: Keys, name: str, packed: memoryview) -> bytes:
    seal = hmac.new(keys.run, _WHAT, hashlib.sha256)
    seal.update(name.encode() + b"\0")
    seal.update(packed)
    return seal.digest()
