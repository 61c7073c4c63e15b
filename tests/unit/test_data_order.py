"""The order of training data: a bijection, the same at any batch split, fair to the mixture, and never to change."""

from __future__ import annotations

import time
from fractions import Fraction
from hashlib import sha256

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tessera_data.mixture import Interleave, integer_weights
from tessera_data.order import BLOCK_SAMPLES, ORDER_VERSION, WINDOW_BLOCKS, Component, Order, SkipList

WINDOW = BLOCK_SAMPLES * WINDOW_BLOCKS
LOCATE_LIMIT_S = 5e-3
"""Five times the goal for 1,000 ids."""


def order_of(*samples: int, seed: int = 7, weights: tuple[str, ...] = (), skip: SkipList | None = None) -> Order:
    shares = weights or ("1",) * len(samples)
    parts = [
        Component(f"dataset-{number}", count, Fraction(share))
        for number, (count, share) in enumerate(zip(samples, shares, strict=True))
    ]
    return Order(seed, tuple(parts), skip or SkipList())


def samples_of(order: Order, start: int, stop: int) -> list[int]:
    read: list[int] = order.locate(np.arange(start, stop)).sample.tolist()
    return read


@given(samples=st.integers(1, 3000), epoch=st.integers(0, 5), seed=st.integers(0, 2**63))
@settings(max_examples=50, deadline=None)
def test_an_epoch_reads_every_sample_once(samples: int, epoch: int, seed: int) -> None:
    located = order_of(samples, seed=seed).locate(np.arange(epoch * samples, (epoch + 1) * samples))

    assert sorted(located.sample.tolist()) == list(range(samples))
    assert set(located.epoch.tolist()) == {epoch}


@pytest.mark.parametrize("samples", [WINDOW - 1, WINDOW, WINDOW + 1, 2 * WINDOW - 1, 2 * WINDOW + 255, 3 * WINDOW + 7])
def test_an_epoch_of_several_windows_reads_every_sample_once(samples: int) -> None:
    read = order_of(samples).locate(np.arange(samples)).sample

    assert (np.bincount(read, minlength=samples) == 1).all()


def test_epochs_seeds_and_datasets_have_orders_of_their_own() -> None:
    one = order_of(1000)
    renamed = Order(7, (Component("another", 1000, Fraction(1)),))

    orders = {tuple(samples_of(each, start, start + 1000)) for each, start in ((one, 0), (one, 1000), (renamed, 0))}
    orders.add(tuple(samples_of(order_of(1000, seed=8), 0, 1000)))

    assert len(orders) == 4


def test_a_neighbour_in_the_mixture_does_not_change_a_datasets_own_order() -> None:
    alone = samples_of(order_of(5000), 0, 300)

    located = order_of(5000, 400, weights=("0.7", "0.3")).locate(np.arange(500))

    assert located.sample[located.dataset == 0][:300].tolist() == alone


@given(st.lists(st.integers(0, 10**15), min_size=1, max_size=50), st.integers(1, 50))
@settings(max_examples=50, deadline=None)
def test_any_split_into_batches_reads_the_same(positions: list[int], cut: int) -> None:
    order = order_of(10**6, 77, 10**12, weights=("0.61", "0.3", "0.09"))
    whole = order.locate(np.array(positions))

    parts = [order.locate(np.array(part)) for part in (positions[:cut], positions[cut:]) if part]

    for field in ("dataset", "epoch", "sample"):
        assert np.concatenate([getattr(part, field) for part in parts]).tolist() == getattr(whole, field).tolist()


@pytest.mark.parametrize("lag", [1, 2, 3, 64, 256, 1000])
def test_neighbours_in_the_order_are_uncorrelated(lag: int) -> None:
    read = order_of(100_000).locate(np.arange(100_000)).sample

    correlation = np.corrcoef(read[:-lag], read[lag:])[0, 1]

    assert abs(correlation) < 0.015  # five standard errors of 100,000 pairs


def test_a_batch_is_spread_over_its_window() -> None:
    read = order_of(10 * WINDOW).locate(np.arange(512)).sample

    assert len({int(sample) // BLOCK_SAMPLES for sample in read}) > 300  # of 512 blocks; two a block on average


def test_a_trillion_samples_cost_no_more_than_a_million() -> None:
    order = order_of(*[10**12] * 16, weights=tuple(f"0.{number:02}" for number in range(1, 17)))
    positions = np.arange(10**12, 10**12 + 1000)
    order.locate(positions)

    begin = time.process_time()
    located = order.locate(positions)
    took = time.process_time() - begin

    assert located.sample.max() < 10**12
    assert took < LOCATE_LIMIT_S


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=16))
@settings(max_examples=60, deadline=None)
def test_no_share_drifts_from_its_weight_in_any_prefix(parts: list[int]) -> None:
    interleave = Interleave(integer_weights([Fraction(part) for part in parts]))
    weights = np.array(interleave.weights)
    prefixes = np.arange(1, 3001)

    dataset, index = interleave.locate(np.arange(3000))

    counts = np.cumsum(dataset[:, None] == np.arange(weights.size), axis=0)
    error = np.abs(counts * weights.sum() - prefixes[:, None] * weights).max()
    assert Fraction(int(error), int(weights.sum())) <= interleave.deviation
    assert interleave.deviation < (1 if weights.size <= 4 else 2)
    assert index.tolist() == [int(counts[place, number]) - 1 for place, number in enumerate(dataset)]


def test_decimal_weights_are_exact() -> None:
    assert integer_weights([Fraction("0.1"), Fraction("0.2"), Fraction("0.30")]) == (1, 2, 3)


def test_shares_hold_over_a_billion_positions() -> None:
    interleave = Interleave(integer_weights([Fraction("0.701"), Fraction("0.2"), Fraction("0.099")]))

    dataset, index = interleave.locate(np.arange(10**9, 10**9 + 100))

    expected = [share * 10**9 for share in (0.701, 0.2, 0.099)]
    first = {int(number): int(index[dataset == number][0]) for number in np.unique(dataset)}
    assert all(abs(first[number] - expected[number]) <= 1 for number in first)


@pytest.mark.parametrize(
    ("weights", "word"), [((), "at least one"), (("1", "0"), "above 0"), (("1", "1e-11"), "fewer digits")]
)
def test_weights_that_make_no_mixture_are_refused(weights: tuple[str, ...], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        integer_weights([Fraction(weight) for weight in weights])


def test_a_dataset_without_samples_or_named_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="dataset-0 has 0 samples"):
        order_of(0)
    with pytest.raises(ValueError, match="twice"):
        Order(7, (Component("a", 1, Fraction(1)), Component("a", 2, Fraction(1))))


def test_negative_positions_are_refused() -> None:
    with pytest.raises(ValueError, match=">= 0"):
        order_of(10).locate(np.array([3, -1]))


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 12)), max_size=8))
def test_the_skip_list_leaves_out_its_spans_and_nothing_else(spans: list[tuple[int, int]]) -> None:
    skip = SkipList()
    for start, length in spans:
        skip = skip.with_span(start, start + length)
    skipped = {position for start, length in spans for position in range(start, start + length)}

    raw = skip.raw(np.arange(100)).tolist()

    assert raw == [position for position in range(300) if position not in skipped][:100]


def test_skipping_ahead_leaves_what_was_consumed_as_it_was() -> None:
    before = samples_of(order_of(1000), 0, 500)

    after = samples_of(order_of(1000, skip=SkipList().with_span(200, 300)), 0, 400)

    assert after == before[:200] + before[300:]


@pytest.mark.parametrize("spans", [((5, 5),), ((-1, 3),), ((0, 3), (3, 4)), ((8, 9), (1, 2))])
def test_a_skip_list_out_of_order_is_refused(spans: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(ValueError, match="not sorted"):
        SkipList(spans)


def test_the_order_never_changes_under_one_version() -> None:
    order = order_of(10**6, 4097, 3, 10**12, weights=("0.5", "0.3", "0.15", "0.05"))
    located = order.locate(np.concatenate([np.arange(2000), np.arange(10**11, 10**11 + 2000)]))

    rows = np.stack([located.dataset, located.epoch, located.sample])

    assert (ORDER_VERSION, samples_of(order_of(10), 0, 10), sha256(rows.astype("<i8").tobytes()).hexdigest()) == (
        "tessera-order-1",
        [3, 0, 7, 4, 2, 5, 6, 9, 1, 8],
        "f60d13eee121906f4c88a0d7c3361fac6a79bb3dd8018643f222b3a9c04d3d34",
    )
