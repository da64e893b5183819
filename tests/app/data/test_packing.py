"""Packed rows are the unpacked ones, to rounding, in the bins that were asked for."""

from itertools import chain

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, MambaConfig, MambaForCausalLM

from qlora.data import IGNORE, Batch, Example, collate, pack
from qlora.data.isolation import check_isolation
from qlora_kernels.errors import InputError


def example(length: int, start: int = 0) -> Example:
    ids = [5 + (start + 7 * i) % 1000 for i in range(length)]
    return Example(ids, [IGNORE, *ids[1:]], "text", f"line {start}")


def examples(lengths) -> list[Example]:
    return [example(length, start) for start, length in enumerate(lengths)]


@given(st.lists(st.integers(1, 20), max_size=60), st.none() | st.integers(0, 9))
def test_every_example_is_in_one_bin_that_holds_it(lengths, seed):
    given_examples = examples(lengths)
    bins = pack(given_examples, 20, seed)
    assert sorted(e.source for e in chain(*bins)) == sorted(e.source for e in given_examples)
    filled = [sum(map(len, b)) for b in bins]
    assert all(0 < total <= 20 for total in filled)
    assert sum(total <= 10 for total in filled) <= 1  # two half-empty bins would have been one
    assert pack(given_examples, 20, seed) == bins


def test_seeds_change_the_bins():
    same_length = examples([5] * 40)
    assert pack(same_length, 10, seed=0) != pack(same_length, 10, seed=1)


def test_many_examples_pack_without_a_quadratic_search():
    bins = pack(examples(1 + i % 500 for i in range(20_000)), 512)
    assert sum(map(len, chain(*bins))) / (512 * len(bins)) > 0.99


def test_an_example_longer_than_the_row_is_refused():
    with pytest.raises(InputError, match=r"should have at most 8 tokens, was 9 \(line 0\)"):
        pack([example(9)], 8)


def test_collate_restarts_positions_and_masks_padding():
    batch = collate([examples([3, 2]), examples([4])], pad_id=9)
    assert batch.position_ids.tolist() == [[0, 1, 2, 0, 1], [0, 1, 2, 3, 4]]
    assert batch.input_ids[1, 4] == 9 and batch.labels[1, 4] == IGNORE
    assert batch.labels[0, 3] == IGNORE  # the first token of a neighbour is predicted by nobody
    assert (batch.num_tokens, batch.num_supervised) == (9, 6)
    mask = batch.attention_mask
    assert mask.shape == (2, 1, 5, 5) and mask.dtype == torch.bool
    assert mask[0, 0, 3].tolist() == [False, False, False, True, False]
    assert mask[1, 0].equal(torch.ones(5, 5, dtype=torch.bool).tril())


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_logits_are_the_unpacked_ones(tiny, attention):
    model = AutoModelForCausalLM.from_pretrained(
        tiny, dtype=torch.float32, attn_implementation=attention
    ).eval()
    bins = pack(examples([7, 12, 3, 9, 30, 1]), 32)
    batch = collate(bins, pad_id=3)
    packed = model(**batch.inputs()).logits
    for row, members in enumerate(bins):
        ends = torch.tensor([len(e) for e in members]).cumsum(0).tolist()
        for member, end in zip(members, ends, strict=True):
            alone = model(torch.tensor([member.input_ids])).logits[0]
            torch.testing.assert_close(packed[row, end - len(member) : end], alone)
    check_isolation(model)


def test_explicit_mask_says_the_same(model):
    batch = collate([examples([7, 5]), examples([9])], pad_id=3)
    masked = model(**batch.inputs(), attention_mask=batch.attention_mask).logits
    torch.testing.assert_close(model(**batch.inputs()).logits, masked)


def test_a_model_that_mixes_examples_is_refused():
    torch.manual_seed(0)
    mamba = MambaForCausalLM(MambaConfig(vocab_size=16, hidden_size=16, num_hidden_layers=1))
    with pytest.raises(InputError, match="MambaForCausalLM should"):
        check_isolation(mamba)


def test_a_cache_would_mix_examples_without_a_word(model, monkeypatch):
    """Why `inputs` says use_cache=False: transformers looks for packed rows only without one."""
    inputs = Batch.inputs
    monkeypatch.setattr(Batch, "inputs", lambda batch: inputs(batch) | {"use_cache": True})
    with pytest.raises(InputError, match="LlamaForCausalLM should keep packed examples apart, but"):
        check_isolation(model)


def test_isolation_leaves_the_mode_of_the_model(model):
    model.train()
    check_isolation(model)
    assert model.training


def test_a_model_without_positions_is_refused(model, monkeypatch):
    forward = type(model).forward
    monkeypatch.setattr(type(model), "forward", lambda self, input_ids, use_cache: forward(self))
    with pytest.raises(InputError, match="LlamaForCausalLM should take position_ids, but does not"):
        check_isolation(model)
