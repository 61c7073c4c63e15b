"""What is special about local files: kills, folders, rights."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tessera_store import ObjectExists, StoreRefused, open_store
from tessera_store.names import PARTS

KILLED_WHILE_WRITING = """
import os, sys
from pathlib import Path
from tessera_store import open_store
store = open_store(sys.argv[1])
source = Path(sys.argv[2])
os.mkfifo(source)
print("ready", flush=True)
store.put("checkpoints/part", source)
"""


def test_a_writer_killed_in_the_middle_leaves_no_object_and_the_next_one_sweeps(tmp_path: Path) -> None:
    root, source = tmp_path / "store", tmp_path / "pipe"
    command = [sys.executable, "-c", KILLED_WHILE_WRITING, root.as_uri(), str(source)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={"PYTHONPATH": os.pathsep.join(sys.path)}) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
        with open(source, "wb") as pipe:  # opens once the writer reads: it is in the middle of its put
            pipe.write(b"half")
            pipe.flush()
            writer.kill()
            writer.wait(10)
    orphans = list((root / PARTS).iterdir())
    assert len(orphans) == 1
    os.utime(orphans[0], (0, 0))
    store = open_store(root.as_uri())
    assert list(store.list()) == []

    store.put("other", b"1")

    assert list((root / PARTS).iterdir()) == []


def test_a_part_that_is_still_being_written_is_not_swept_however_old(tmp_path: Path) -> None:
    source, slow = tmp_path / "pipe", open_store((tmp_path / "store").as_uri())
    os.mkfifo(source)
    writer = os.fork()
    if writer == 0:
        slow.put("slow", source)
        os._exit(0)
    with open(source, "wb") as pipe:
        pipe.write(b"whole")
        pipe.flush()
        for part in (tmp_path / "store" / PARTS).iterdir():
            os.utime(part, (0, 0))
        open_store((tmp_path / "store").as_uri()).put("other", b"1")
    os.waitpid(writer, 0)

    assert slow.get("slow") == b"whole"


def test_a_file_where_a_folder_is_needed_is_refused_with_the_remedy(tmp_path: Path) -> None:
    store = open_store(tmp_path.as_uri())
    store.put("log", b"1")

    for write in (store.put, store.create):
        with pytest.raises(StoreRefused, match="remove it or choose another place"):
            write("log/00000001", b"1")


def test_a_folder_where_the_object_is_needed(tmp_path: Path) -> None:
    store = open_store(tmp_path.as_uri())
    store.put("log/00000001", b"1")

    with pytest.raises(ObjectExists):
        store.create("log", b"1")
    with pytest.raises(StoreRefused, match="a folder stands where an object is needed"):
        store.put("log", b"1")


def test_deletion_leaves_no_empty_folders_behind(tmp_path: Path) -> None:
    store = open_store(tmp_path.as_uri())
    store.put("checkpoints/one/two/part", b"1")
    store.put("checkpoints/other", b"1")

    store.delete("checkpoints/one/two/part")

    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["other"]


def test_links_are_followed_and_one_that_leads_back_shows_nothing_twice(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    for folder in (root / "real", elsewhere / "deep"):
        folder.mkdir(parents=True)
    (root / "real" / "text").write_bytes(b"x")
    (elsewhere / "deep" / "text").write_bytes(b"yy")
    (root / "file").symlink_to(root / "real" / "text")
    (root / "linked").symlink_to(elsewhere)
    (root / "loop").symlink_to(root)
    (elsewhere / "up").symlink_to(root)
    (root / "broken").symlink_to(root / "nowhere")
    store = open_store(root.as_uri())

    assert [(info.name, info.size) for info in store.list()] == [
        ("file", 1),
        ("linked/deep/text", 2),
        ("real/text", 1),
    ]
    assert store.get("linked/deep/text") == b"yy"


def test_a_full_disk_is_passing_trouble(tmp_path: Path) -> None:
    """A file size limit stands in for the full disk: the same refused write, in a process of its own."""
    program = """
import resource, signal, sys
from tessera_store import StoreUnavailable, open_store
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
store = open_store(sys.argv[1])
try:
    store.create("part", bytes(2000))
except StoreUnavailable as error:
    print(type(error.__cause__).__name__, list(store.list()))
"""
    result = subprocess.run(
        [sys.executable, "-c", program, tmp_path.as_uri()],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": os.pathsep.join(sys.path)},
    )

    assert result.stdout == "OSError []\n"


def test_files_do_not_pay_for_the_s3_client(tmp_path: Path) -> None:
    program = (
        f"import sys, tessera_store; tessera_store.open_store({tmp_path.as_uri()!r}); print('boto3' in sys.modules)"
    )

    result = subprocess.run(
        [sys.executable, "-c", program, tmp_path.as_uri()],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": os.pathsep.join(sys.path)},
    )

    assert result.stdout == "False\n"
