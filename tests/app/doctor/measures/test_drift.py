import json
import math

import pytest
import torch

from qlora.data import Example
from qlora.doctor.measures import drift
from qlora.doctor.subject import Subject


def example(*ids):
    return Example(list(ids), [-100, *ids[1:]], "text", "here")


def test_jensen_shannon_by_hand():
    assert float(drift.jensen_shannon(torch.tensor([2.0, 2.0]), torch.tensor([5.0, 5.0]))) == 0
    apart = drift.jensen_shannon(torch.tensor([3.0, 0.0]), torch.tensor([0.0, 8.0]))
    assert float(apart) == pytest.approx(1)
    half = drift.jensen_shannon(
        torch.tensor([1.0, 0.0], dtype=torch.float64), torch.tensor([1.0, 1.0], dtype=torch.float64)
    )
    mixed = -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25))
    assert float(half) == pytest.approx(mixed - 0.5, rel=1e-12)


def test_counts_are_of_each_example():
    first, second = drift.token_counts([example(7, 3, 7), example(3)], [example(9, 9)])
    assert first.tolist() == [[1, 2, 0], [1, 0, 0]]
    assert second.tolist() == [[0, 0, 2]]


def drawn(count, words, seed):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(words[0], words[1], (count, 12), generator=generator)
    return [example(*row) for row in ids.tolist()]


def test_splits_of_one_source_are_not_apart_and_other_words_are():
    same = [
        drift.frequency_distance(
            *drift.token_counts(drawn(20, (0, 90), s), drawn(60, (0, 90), s + 500)), s
        )
        for s in range(40)
    ]
    assert abs(sum(distance for distance, _ in same) / 40) < 0.005
    assert sum(probability <= 0.05 for _, probability in same) <= 6
    distance, probability = drift.frequency_distance(
        *drift.token_counts(drawn(20, (60, 150), 1), drawn(60, (0, 90), 2)), 0
    )
    assert distance > 0.3 and probability == pytest.approx(1 / 501)


def test_a_harder_set_is_found_and_a_like_one_is_not():
    generator = torch.Generator().manual_seed(5)
    tokens = torch.randint(5, 20, (80,), generator=generator).double()
    losses = tokens * (3 + 0.5 * torch.randn(80, generator=generator, dtype=torch.float64))
    sums = torch.stack([losses, tokens], dim=1)
    like = drift.difference(sums[:20], sums[20:], 0)
    assert like[1][0] < 0 < like[1][1]
    assert drift.difference_probability(sums[:20], sums[20:], 0) > 0.05
    harder = sums.clone()
    harder[:20, 0] += tokens[:20]
    value, (low, high) = drift.difference(harder[:20], harder[20:], 0)
    assert value == pytest.approx(like[0] + 1) and 0.5 < low < value < high < 1.6
    assert drift.difference_probability(harder[:20], harder[20:], 0) < 0.01


def test_a_recent_file_of_another_kind(run, tmp_path):
    recent = tmp_path / "recent.jsonl"
    lines = ({"text": f"Tisch {n} kostet {7 * n} Taler, alles wird rarer."} for n in range(30))
    recent.write_text("\n".join(map(json.dumps, lines)))
    subject = Subject.open(run(), recent=recent)
    facts = {fact.name: fact for fact in drift.measure_recent(subject)}
    assert facts["drift_recent"].low > 0.3
    assert facts["drift_recent_probability"].value < 0.01
    assert facts["drift_recent_tokens"].value > 0.2
    increase = facts["recent_loss_increase"]
    assert increase.low < increase.value < increase.high
    assert "recent.jsonl" in increase.detail
    assert drift.measure_recent(Subject.open(run())) == []


def test_a_random_validation_split_is_not_accused(run):
    facts = {f.name: f for f in drift.measure_validation(Subject.open(run(validation_split=0.3)))}
    assert facts["drift_validation"].low < 0.1
    assert facts["drift_validation_probability"].value > 0.01
    assert facts["drift_validation_tokens_probability"].value > 0.01
