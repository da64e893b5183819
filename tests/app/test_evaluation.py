import math

import pytest
import torch

from qlora import evaluation
from qlora.data import Example, pack
from qlora.evaluation import evaluate


def greedy(model, prompt: list[int], count: int) -> list[int]:
    ids = list(prompt)
    for _ in range(count):
        ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


def completion(prompt: list[int], answer: list[int], kind="completion") -> Example:
    return Example(prompt + answer, [-100] * len(prompt) + answer, kind, "a test")


@pytest.fixture
def answered(model):
    """Six prompts with the model's own greedy answers, which are exact by definition."""
    prompts = [[5 + i, 70 + i, 200 + i] for i in range(6)]
    return [(prompt, greedy(model, prompt, 4)) for prompt in prompts]


def test_greedy_answers_are_exact_and_others_are_not(model, answered):
    examples = [completion(*pair) for pair in answered]
    prompt, answer = answered[0]
    examples.append(completion(prompt, [*answer[:-1], answer[-1] ^ 1]))  # wrong at the end
    examples.append(completion(prompt, [answer[0] ^ 1, *answer[1:]]))  # wrong at the beginning
    result = evaluate(model, pack(examples, 32))
    assert result.accuracy == pytest.approx(6 / 8)
    assert (result.num_examples, result.num_tokens) == (8, 32)


def test_loss_is_that_of_transformers(model, answered):
    examples = [completion(*pair) for pair in answered]
    losses = [
        model(input_ids=torch.tensor([e.input_ids]), labels=torch.tensor([e.labels])).loss.item()
        for e in examples  # equally many labels each
    ]
    result = evaluate(model, pack(examples, 16))
    assert result.loss == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert result.perplexity == pytest.approx(math.exp(result.loss))


def test_text_has_no_accuracy_and_does_not_count_in_it(model, answered):
    text = Example([5, 6, 7, 8], [-100, 6, 7, 8], "text", "a test")
    assert evaluate(model, [[text]]).accuracy is None
    exact = completion(*answered[0])
    assert evaluate(model, [[text, exact]]).accuracy == 1.0


def test_a_conversation_counts_as_one(model, answered):
    prompt, answer = answered[0]
    assert evaluate(model, [[completion(prompt, answer, "chat")]]).accuracy == 1.0


def test_small_chunks_and_batches_give_the_same(model, answered, monkeypatch):
    rows = pack([completion(*pair) for pair in answered], 8)
    whole = evaluate(model, rows, batch_size=8)
    monkeypatch.setattr(evaluation, "CHUNK_BYTES", 1)  # one position at a time
    pieces = evaluate(model, rows, batch_size=1)
    assert pieces.loss == pytest.approx(whole.loss, rel=1e-6)
    assert pieces.accuracy == whole.accuracy


@pytest.mark.parametrize("training", [False, True])
def test_the_mode_comes_back_and_nothing_is_drawn(model, answered, training):
    model.train(training)
    before = torch.get_rng_state()
    evaluate(model, [[completion(*answered[0])]])
    assert model.training is training
    assert torch.equal(torch.get_rng_state(), before)
