"""FLOPs, peaks and the meter: counts against PyTorch's own counter, and readings against arithmetic by hand."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from tessera_trainer.flops import six_n_d, training_flops
from tessera_trainer.meter import Meter, Reading, StepWork
from tessera_trainer.micro_batch import pack
from tessera_trainer.peak import Arithmetic, Peak, known_peak, measured_peak, peak_of
from tessera_trainer.shape import ModelShape

SHAPE = ModelShape(
    vocabulary=101,
    sequence_length=32,
    hidden=24,
    layers=3,
    heads=4,
    kv_heads=2,
    ffn=40,
    rope_theta=1e4,
    tied=False,
)


def plain_matmuls(tokens: int, documents: list[int]) -> int:
    """FLOPs that PyTorch counts for the same products with square attention, forward and backward."""
    hidden, kv, ffn = SHAPE.hidden, SHAPE.kv_heads * SHAPE.head_width, SHAPE.ffn
    sizes = [(hidden, hidden), (kv, hidden), (kv, hidden), (hidden, hidden)]
    sizes += [(ffn, hidden), (ffn, hidden), (hidden, ffn)]
    weights = [nn.Parameter(torch.zeros(size)) for size in [*sizes * SHAPE.layers, (SHAPE.vocabulary, hidden)]]
    with FlopCounterMode(display=False) as counter:
        for weight in weights:
            stream = torch.zeros(tokens, weight.shape[1], requires_grad=True)
            torch.autograd.backward(functional.linear(stream, weight).sum())
        for length in documents * SHAPE.layers:
            heads = torch.zeros(SHAPE.heads, length, SHAPE.head_width, requires_grad=True)
            torch.autograd.backward(((heads @ heads.mT) @ heads).sum())
    return int(counter.get_total_flops())


def test_flops_of_weights_are_those_that_pytorch_counts() -> None:
    assert training_flops(SHAPE, 32, 0) == plain_matmuls(32, [])


def test_causal_attention_takes_the_half_square_of_each_document() -> None:
    documents = [20, 12]
    segments = torch.tensor([[0] * 20 + [1] * 13])
    pairs = pack(torch.zeros_like(segments), segments).attention_pairs
    square = plain_matmuls(32, documents) - plain_matmuls(32, [])
    causal = training_flops(SHAPE, 32, pairs) - training_flops(SHAPE, 32, 0)
    diagonal = 32 * 12 * SHAPE.layers * SHAPE.hidden  # a query meets its own key, so the half is rounded up
    assert causal == (square + diagonal) // 2


def test_positions_that_are_only_read_do_not_meet_the_head() -> None:
    assert (
        training_flops(SHAPE, 32, 0) - training_flops(SHAPE, 32, 0, 20) == 3 * 2 * 12 * SHAPE.vocabulary * SHAPE.hidden
    )


def test_six_n_d_counts_look_ups_and_no_attention() -> None:
    assert six_n_d(SHAPE, 10) == 60 * SHAPE.parameters
    assert SHAPE.parameters - SHAPE.matmul_parameters == 101 * 24 + 7 * 24


def test_a_peak_is_looked_up_by_the_exact_name() -> None:
    found = known_peak("NVIDIA H100 80GB HBM3", Arithmetic.BF16)
    assert found == Peak(989.4e12, "data sheet of NVIDIA H100 80GB HBM3, bf16, dense")
    assert known_peak("NVIDIA H100", Arithmetic.BF16) is None


def test_an_unknown_device_is_timed_within_its_limit_and_says_so() -> None:
    ticks = itertools.count(0.0, 0.05)
    found = measured_peak("cpu", torch.device("cpu"), Arithmetic.FP32, lambda: next(ticks))
    assert abs(found.flops / (2 * 512**3 / 0.05) - 1) < 1e-9
    assert found.source.startswith("measured on cpu: best of ")
    assert next(ticks) < 1.5


def test_the_peak_of_a_cpu_is_measured_once_on_a_machine(tmp_path: Path) -> None:
    found = peak_of(torch.device("cpu"), Arithmetic.FP32, tmp_path / "cache")
    assert found.source.startswith("measured on cpu")
    assert 1e8 < found.flops < 1e15
    assert peak_of(torch.device("cpu"), Arithmetic.FP32, tmp_path / "cache") == found
    assert peak_of(torch.device("cpu"), Arithmetic.BF16, tmp_path / "cache") != found
    [path] = (tmp_path / "cache").glob("*fp32*")
    path.write_text("torn")
    again = peak_of(torch.device("cpu"), Arithmetic.FP32, tmp_path / "cache")
    assert (again.source.split(":")[0], json.loads(path.read_text())["flops"]) == ("measured on cpu", again.flops)


def test_the_meter_reads_the_window_and_not_the_steps_before_it() -> None:
    meter = Meter(SHAPE, Peak(1e9, "test"), devices=2, started=100.0, window=2)
    work = StepWork(tokens=64, attention_pairs=300)
    meter.step(work, 110.0, 1000)  # a slow first step
    meter.step(work, 111.0, 936)
    reading = meter.step(work, 112.0, 640)
    flops = training_flops(SHAPE, 64, 300)
    assert reading == Reading(
        tokens_per_second=64.0,
        mfu=flops / 2e9,
        mfu_6nd=six_n_d(SHAPE, 64) / 2e9,
        eta_seconds=10.0,
    )


def test_the_meter_says_nothing_before_time_has_passed() -> None:
    meter = Meter(SHAPE, Peak(1e9, "test"), devices=1, started=5.0)
    assert meter.step(StepWork(64, 300), 5.0, 10) is None
