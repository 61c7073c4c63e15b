"""Packing: which share of the computed positions of a fine-tuning on short chats no conversation has.

python benchmarks/chat_packing.py [--quick]: a JSON line a figure. Lengths are drawn as those of short chats are spread
(log-normal: half have fewer than 140 tokens, one in a hundred more than 1,100), 200,000 of them; a try is one draw. The
same conversations are put into samples in the order they come in, for comparison. Positions of a prompt are read, and
are no waste.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from figures import line

from tessera_data.packed_stream import packed

ROOMS = (1024, 2048, 4096)
TRIES = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    count = 20_000 if options.quick else 200_000
    for room in ROOMS:
        fits, greedy, seconds = zip(*(wasted(count, room, seed) for seed in range(TRIES)), strict=True)
        name = f"packing of short chats into samples of {room}"
        print(line(f"{name}: filled up", fits, "%", 3.0, options.quick), flush=True)
        print(line(f"{name}, in the order they come in: filled up", greedy, "%", None, options.quick), flush=True)
        print(line(f"{name}: time for {count}", seconds, "s", None, options.quick), flush=True)


def wasted(count: int, room: int, seed: int) -> tuple[float, float, float]:
    """Per cent of all positions, packed and in order; seconds of packing."""
    lengths = np.clip(np.random.default_rng(seed).lognormal(4.95, 0.9, count), 8, room).astype(np.int64)
    begin = time.perf_counter()
    samples = int(packed(lengths, room).max()) + 1
    seconds = time.perf_counter() - begin
    total = int(lengths.sum())
    return 100 * (1 - total / (samples * room)), 100 * (1 - total / (in_order(lengths, room) * room)), seconds


def in_order(lengths: np.ndarray[tuple[int], np.dtype[np.int64]], room: int) -> int:
    """Samples, where each conversation goes into the last one or begins the next."""
    samples, left = 0, 0
    for length in lengths.tolist():
        if length > left:
            samples, left = samples + 1, room
        left -= length
    return samples


if __name__ == "__main__":
    main()
