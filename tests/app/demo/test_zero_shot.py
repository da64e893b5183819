"""The packed scores must be those of one label at a time."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from qlora.demo.zero_shot import LabelTree, label_scores

FIXTURE = Path(__file__).parents[2] / "fixtures" / "tiny_shakespeare_llama"
PROMPT = [17, 512, 99, 3]


@pytest.fixture(scope="module", params=["sdpa", "eager"])
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    loaded = AutoModelForCausalLM.from_pretrained(
        FIXTURE, dtype=torch.float32, attn_implementation=request.param
    )
    return loaded.eval()


def score_one_by_one(model: PreTrainedModel, prompt: list[int], label: list[int]) -> Tensor:
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt + label])).logits[0, len(prompt) - 1 : -1]
    tokens = torch.tensor(label)[:, None]
    return logits.log_softmax(-1).gather(1, tokens).mean()


@pytest.mark.parametrize(
    "labels",
    [
        [[7, 8, 9], [7, 8, 10], [7, 11], [12, 8, 9]],  # shared beginnings
        [[7, 8], [7, 8, 9, 10], [8, 7]],  # one label begins another
        [[7], [8]],  # nothing to read but the prompt
        [[7, 7, 7], [7, 7]],
    ],
)
def test_scores_are_those_of_one_label_at_a_time(
    model: PreTrainedModel, labels: list[list[int]]
) -> None:
    expected = torch.stack([score_one_by_one(model, PROMPT, label) for label in labels])
    scores = label_scores(model, PROMPT, LabelTree(labels))
    torch.testing.assert_close(scores, expected, atol=1e-4, rtol=0)


def test_beginnings_are_read_once() -> None:
    tree = LabelTree([[7, 8, 9], [7, 8, 10], [7, 11]])
    assert tree.beginnings == [(7,), (7, 8)]
    assert tree.sees.tolist() == [[True, False], [True, True]]
