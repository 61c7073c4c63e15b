"""Order: what it costs to know which sample comes next, and to have the first batch, at a run's start and in its
middle.

python benchmarks/order.py [--quick] [--folder DIR]: a JSON line a figure. The whole needs 5 GB in DIR (sparse files:
400 GB of holes), --quick a tenth.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
from figures import line
from token_files import SEQUENCE_LENGTH, write_real, write_sparse

from tessera_data.manifest import Split
from tessera_data.order import Component, Order
from tessera_data.reader import Dataset, Reader

IDS = 1000
BATCH = 8
TRIES = 10
SIZES = (10**6, 10**8, 10**10, 10**12)
MIXTURES = (1, 4, 16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--folder", type=Path, help="for the token files; default: a temporary folder")
    options = parser.parse_args()
    for samples in SIZES:
        for datasets in MIXTURES:
            values = [order_ms(samples, datasets, seed) for seed in range(TRIES)]
            print(line(f"order of {IDS} ids, {datasets} x {samples:.0e} samples", values, "ms", 1, options.quick))
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for said in first_batches(Path(folder), options.quick):
            print(said, flush=True)


def order_ms(samples: int, datasets: int, seed: int) -> float:
    """Milliseconds for IDS ids in mid-run, the median of 5 calls after a first one."""
    components = [Component(f"dataset-{n}", samples, Fraction(n + 1, 7)) for n in range(datasets)]
    order = Order(seed, tuple(components))
    positions = np.arange(IDS) + samples // 2
    order.locate(positions)
    return statistics.median(_ms(lambda: order.locate(positions)) for _ in range(5))


def first_batches(folder: Path, quick: bool) -> Iterator[str]:
    """From the manifest's address to the first batch of BATCH samples, everything anew for each try, page cache
    warm."""
    real = 10**5 if quick else 10**6
    for kind, samples, uri in (
        ("real", real, write_real(folder / "real", real)),
        ("sparse", 10**8, write_sparse(folder / "sparse", 10**8)),
    ):
        for place, position in (("start", 0), ("resume", samples // 2)):
            values = [_first_batch_ms(uri, folder, position, seed) for seed in range(TRIES + 1)][1:]
            yield line(f"first batch, {place}, {kind} shards of {samples:.0e} samples", values, "ms", 20, quick)


def _first_batch_ms(uri: str, folder: Path, position: int, seed: int) -> float:
    def read() -> None:
        stream = Dataset.open(uri, folder / "cache").stream(Split.TRAIN, SEQUENCE_LENGTH)
        order = Order(seed, (Component("tokens", stream.samples, Fraction(1)),))
        Reader(order, [stream]).read(np.arange(position, position + BATCH))

    read()  # from the disk into the page cache
    return _ms(read)


def _ms(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - begin)


if __name__ == "__main__":
    main()
