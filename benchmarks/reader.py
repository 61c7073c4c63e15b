"""Reader: samples a second on one core, 2,048 tokens each, page cache warm, every block's checksum checked at first
touch.

python benchmarks/reader.py [--quick] [--folder DIR]: a JSON line a figure. Needs 820 MB in DIR, --quick a quarter. A
try reads one epoch with a reader of its own, so that the cost of checking every block is in it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
from figures import line
from token_files import SEQUENCE_LENGTH, write_real

from tessera_data.manifest import Split
from tessera_data.order import Component, Order
from tessera_data.reader import Dataset, Reader

BATCHES = (8, 256)
TRIES = 5
IMPORT = (
    "import sys, time, numpy, tessera_store; begin = time.perf_counter(); import tessera_data.reader; "
    "print(time.perf_counter() - begin); assert not {'torch', 'pyarrow', 'tokenizers', 'orjson'} & set(sys.modules)"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--folder", type=Path, help="for the token files; default: a temporary folder")
    options = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    samples = 50_000 if options.quick else 200_000
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        uri = write_real(Path(folder) / "real", samples)
        for batch in BATCHES:
            tries = [samples_per_second(uri, Path(folder), batch, seed) for seed in range(TRIES + 1)][1:]
            for clock, values in zip(("wall", "CPU"), zip(*tries, strict=True), strict=True):
                name = f"reader, batches of {batch}, by {clock} clock"
                print(line(name, values, "samples/s", 60_000, options.quick), flush=True)
    seconds = [import_seconds() for _ in range(TRIES)]
    print(line("import of the reader over numpy and the store", seconds, "s", 0.1, options.quick))


def samples_per_second(uri: str, folder: Path, batch: int, seed: int) -> tuple[float, float]:
    """Of one epoch: by the wall clock, which others on the machine slow, and by this process's."""
    stream = Dataset.open(uri, folder / "cache").stream(Split.TRAIN, SEQUENCE_LENGTH)
    reader = Reader(Order(seed, (Component("tokens", stream.samples, Fraction(1)),)), [stream])
    begin, cpu_begin = time.perf_counter(), time.process_time()
    for position in range(0, stream.samples, batch):
        reader.read(np.arange(position, min(position + batch, stream.samples)))
    wall, cpu = time.perf_counter() - begin, time.process_time() - cpu_begin
    return stream.samples / wall, stream.samples / cpu


def import_seconds() -> float:
    """In a new process."""
    return float(subprocess.run([sys.executable, "-c", IMPORT], check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    main()
