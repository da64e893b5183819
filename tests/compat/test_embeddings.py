"""Embeddings in 4 bits: the rows of the decoded table, decoded alone where they can be."""

import pytest
import torch
from torch import nn

import qlora_kernels.compat.bitsandbytes as bnb
from qlora_kernels.testing.cases import generator


@pytest.mark.parametrize("width", [64, 128, 65])
@pytest.mark.parametrize("made", [bnb.nn.EmbeddingNF4, bnb.nn.EmbeddingFP4, bnb.nn.Embedding4bit])
@pytest.mark.parametrize("storage", [torch.uint8, torch.float32])
def test_rows_are_those_of_the_decoded_table(
    width: int, made: type, storage: torch.dtype, caplog: pytest.LogCaptureFixture
):
    table = nn.Embedding(64, width)
    table.weight.data.copy_(torch.randn(64, width, generator=generator(width)))
    embedding = made(64, width, quant_storage=storage)
    assert ("slow inference" in caplog.text) == (width % 64 != 0)
    embedding.load_state_dict(table.state_dict())
    embedding.to("cpu")
    decoded = bnb.functional.dequantize_4bit(embedding.weight, embedding.weight.quant_state)
    for indices in (torch.tensor([3, 3, 63]), torch.tensor([[0], [9]]), torch.tensor(5)):
        assert torch.equal(embedding(indices), decoded[indices])


def test_saving_is_not_implemented():
    with pytest.raises(NotImplementedError, match="Saving EmbeddingNF4"):
        bnb.nn.EmbeddingNF4(64, 64).state_dict()


def test_the_stable_embedding_is_normalized():
    embedding = bnb.nn.StableEmbedding(10, 64, padding_idx=2, dtype=torch.bfloat16)
    rows = embedding(torch.tensor([1, 2]))
    assert rows.dtype == torch.bfloat16 and (embedding.weight[2] == 0).all()
    truth = embedding.norm(embedding.weight[1].float())
    assert torch.equal(rows[0], truth.to(torch.bfloat16))
