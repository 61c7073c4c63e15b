"""Packed documents: what a micro-batch says of them, and that none of them feels the others."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tessera_trainer.attention import attention
from tessera_trainer.initialise import initialise
from tessera_trainer.micro_batch import IGNORED, MicroBatch, pack
from tessera_trainer.model import Decoder
from tessera_trainer.shape import ModelShape

VOCABULARY = 97


def decoder(length: int, *, tied: bool = True, dtype: torch.dtype = torch.float32) -> Decoder:
    shape = ModelShape(
        vocabulary=VOCABULARY,
        sequence_length=length,
        hidden=64,
        layers=2,
        heads=4,
        kv_heads=2,
        ffn=96,
        rope_theta=1e4,
        tied=tied,
    )
    model = Decoder(shape).to_empty(device="cpu")
    initialise(model, seed=3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.sin(torch.arange(parameter.numel()).view_as(parameter)), alpha=0.05)
    return model.to(dtype)


def document(length: int, seed: int) -> Tensor:
    return torch.randint(0, VOCABULARY, (length,), generator=torch.Generator().manual_seed(seed))


def row(*documents: Tensor) -> MicroBatch:
    """One row of whole documents; the token past the row's end is of no document."""
    segments = torch.cat([torch.full_like(tokens, place) for place, tokens in enumerate(documents)])
    return pack(
        torch.cat((*documents, torch.tensor([0])))[None], torch.cat((segments, torch.tensor([len(documents)])))[None]
    )


def loss_and_gradients(model: Decoder, batch: MicroBatch) -> tuple[Tensor, list[Tensor]]:
    loss, _ = model(batch)
    return loss.detach(), list(torch.autograd.grad(loss, list(model.parameters())))


def test_a_document_predicts_its_own_tokens_and_never_the_next_documents_first() -> None:
    batch = pack(torch.tensor([[5, 6, 7, 8, 9], [1, 2, 3, 4, 0]]), torch.tensor([[0, 0, 1, 1, 1], [4, 4, 4, 4, 9]]))
    found = {
        "inputs": batch.inputs.tolist(),
        "targets": batch.targets.tolist(),
        "positions": batch.positions.tolist(),
        "offsets": batch.offsets.tolist(),
        "counts": (batch.row_length, batch.token_count, batch.attention_pairs),
    }
    assert found == {
        "inputs": [5, 6, 7, 8, 1, 2, 3, 4],
        "targets": [6, IGNORED, 8, 9, 2, 3, 4, IGNORED],
        "positions": [0, 1, 0, 1, 0, 1, 2, 3],
        "offsets": [0, 2, 4, 8, 8],
        "counts": (4, 6, 3 + 3 + 10),
    }


def test_ordinary_rows_have_offsets_of_one_size_whatever_their_documents_are() -> None:
    tokens = torch.ones(2, 257, dtype=torch.int64)
    cuts = [torch.arange(257).div(length, rounding_mode="floor").expand(2, -1) for length in (300, 100, 32)]
    assert {pack(tokens, documents).offsets.numel() for documents in cuts} == {17}
    many = pack(tokens, torch.arange(257).div(4, rounding_mode="floor").expand(2, -1))
    assert many.offsets.numel() == 129, "and as many as there are documents, where there are more"


def test_rows_that_do_not_match_their_segments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^tokens \[2, 5\] and documents \[2, 4\] must be one \[rows, T \+ 1\]$"):
        pack(torch.zeros(2, 5), torch.zeros(2, 4))


def test_the_loss_of_packed_documents_is_the_sum_of_their_losses_alone() -> None:
    documents = [document(length, seed) for seed, length in enumerate((37, 1, 20, 6))]
    model = decoder(64)
    packed, packed_gradients = loss_and_gradients(model, row(*documents))
    alone = [loss_and_gradients(model, row(tokens)) for tokens in documents]
    torch.testing.assert_close(packed, torch.stack([loss for loss, _ in alone]).sum(), rtol=1e-6, atol=1e-5)
    for found, *expected in zip(packed_gradients, *(gradients for _, gradients in alone), strict=True):
        torch.testing.assert_close(found, torch.stack(expected).sum(0), rtol=1e-4, atol=1e-5)


def test_a_documents_bits_do_not_depend_on_what_else_is_in_its_row() -> None:
    model, ours = decoder(64), document(30, 1)
    with torch.no_grad():
        first = model.stream(row(document(10, 2), ours, document(24, 3)))
        other = model.stream(row(document(4, 4), document(6, 5), ours, document(24, 6)))
    assert torch.equal(first[10:40], other[10:40])
    assert not torch.equal(first[:10], other[:10])


def test_a_micro_batch_gives_the_same_bits_each_time() -> None:
    model, batch = decoder(64, tied=False), row(document(40, 1), document(24, 2))
    (loss, gradients), (again, gradients_again) = loss_and_gradients(model, batch), loss_and_gradients(model, batch)
    assert torch.equal(loss, again)
    assert all(map(torch.equal, gradients, gradients_again))


def test_a_bf16_model_comes_close_to_the_fp32_one() -> None:
    batch = row(document(40, 1), document(24, 2))
    exact, _ = loss_and_gradients(decoder(64), batch)
    rough, gradients = loss_and_gradients(decoder(64, dtype=torch.bfloat16), batch)
    assert rough.dtype is torch.float32
    torch.testing.assert_close(rough, exact, rtol=0.02, atol=0)
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_attention_by_document_equals_attention_under_a_mask() -> None:
    lengths, generator = (5, 1, 16, 10), torch.Generator().manual_seed(1)
    query, key, value = (torch.randn(32, heads, 8, generator=generator, requires_grad=True) for heads in (6, 2, 2))
    direction = torch.randn(32, 6, 8, generator=generator)
    place = torch.repeat_interleave(torch.arange(4), torch.tensor(lengths))
    mask = (place[:, None] == place[None]) & torch.ones(32, 32, dtype=torch.bool).tril()
    offsets = torch.tensor([0, 5, 6, 22, 32, 32], dtype=torch.int32)

    found = attention(query, key, value, offsets, 32)

    batched = [part.transpose(0, 1)[None] for part in (query, key, value)]
    plain = functional.scaled_dot_product_attention(batched[0], batched[1], batched[2], attn_mask=mask, enable_gqa=True)
    expected, inputs = plain[0].transpose(0, 1), (query, key, value)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(
        torch.autograd.grad(found, inputs, direction), torch.autograd.grad(expected, inputs, direction), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_only_what_is_learned_is_predicted_and_meets_the_head() -> None:
    tokens = torch.randint(0, 64, (2, 33), generator=torch.Generator().manual_seed(5))
    documents = (torch.arange(33) >= 12).long().expand(2, -1)
    learned = torch.rand(2, 33, generator=torch.Generator().manual_seed(6)) < 0.4
    batch, whole = pack(tokens, documents, learned), pack(tokens, documents)
    wanted = learned[:, 1:] & (documents[:, 1:] == documents[:, :-1])
    assert torch.equal(batch.targets != IGNORED, wanted.reshape(-1))
    assert batch.predicting is not None
    assert batch.token_count == int(wanted.sum()) == batch.predicting.numel()
    assert torch.equal(batch.targets[batch.predicting], whole.targets[batch.predicting])

    model = decoder(32)
    loss, gradients = loss_and_gradients(model, batch)
    expected, others = loss_and_gradients(model, replace(batch, predicting=None))
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-5)
    for found, other in zip(gradients, others, strict=True):
        torch.testing.assert_close(found, other, rtol=1e-4, atol=1e-5)


def test_a_unit_of_which_nothing_is_learned_has_no_loss_and_no_gradient() -> None:
    batch = pack(torch.ones(1, 9, dtype=torch.int64), torch.zeros(1, 9), torch.zeros(1, 9, dtype=torch.bool))
    loss, gradients = loss_and_gradients(decoder(8), batch)
    assert (loss.item(), batch.token_count) == (0.0, 0)
    assert all(not gradient.any() for gradient in gradients)
