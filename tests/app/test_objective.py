import pytest
import torch

import qlora_kernels as qk
from qlora.data import pack, read_examples
from qlora.objective import loss_sum, supervise, supervised_hidden
from qlora.train.prepare import recompute_activations


@pytest.fixture
def examples(tmp_path, tokenizer):
    rows = [
        f'{{"prompt": "O {word}", "completion": " sweet {word} of mine"}}\n' for word in "abcde"
    ]
    path = tmp_path / "data.jsonl"
    path.write_text("".join(rows))
    return read_examples(path, tokenizer, 64)


def test_it_is_the_loss_of_transformers(model, examples):
    """One example a row, unpadded: the model's own loss, which averages, tells the truth."""
    for example in examples:
        supervised = supervise([[example]], pad_id=3)
        labels = supervised.batch.labels
        expected = model(input_ids=supervised.batch.input_ids, labels=labels).loss
        mean = loss_sum(model, supervised) / len(supervised.labels)
        torch.testing.assert_close(mean, expected)


def test_packing_and_padding_change_nothing(model, examples):
    alone = sum(loss_sum(model, supervise([[example]], 3)) for example in examples)
    padded = loss_sum(model, supervise([[example] for example in examples], 3))
    packed = loss_sum(model, supervise(pack(examples, 48), 3))
    torch.testing.assert_close(padded, alone)
    torch.testing.assert_close(packed, alone)


def test_only_labels_count(model, examples):
    supervised = supervise(pack(examples, 64), 3)
    assert len(supervised.labels) == sum(example.num_supervised for example in examples)
    hidden = supervised_hidden(model, supervised)
    assert hidden.shape == (len(supervised.labels), model.config.hidden_size)


def test_adapters_get_gradient_with_and_without_checkpointing(model, examples):
    qk.prepare_model(model, qk.QLoRAConfig(rank=2, dropout=0.5))
    model.train()
    parameters = qk.nn.adapter_parameters(model)
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            recompute_activations(model)
        torch.manual_seed(0)
        model.zero_grad()
        loss_sum(model, supervise(pack(examples, 64), 3)).backward()
        gradients.append({name: p.grad.clone() for name, p in parameters.items()})
    plain, recomputed = gradients
    assert all(torch.equal(plain[name], recomputed[name]) for name in plain)
    assert all(plain[name].any() for name in plain if name.endswith("lora_b"))
