import pytest
import torch

from qlora.doctor.measures import generalization_gap
from qlora.doctor.measures.generalization_gap import gap, gap_learned
from qlora.doctor.subject import Subject
from qlora.evaluation import evaluate


def test_losses_are_those_of_evaluate(subject):
    facts = {fact.name: fact for fact in generalization_gap.measure(subject)}
    for prefix, which in (("training", "training"), ("validation", "validation")):
        rows = [[example] for example in subject.examples(which)]
        told = evaluate(subject.model, rows, subject.pad_id).loss
        assert facts[f"{prefix}_loss"].value == pytest.approx(told, rel=1e-5)
    whole = facts["validation_loss"].value - facts["training_loss"].value
    base = facts["base_validation_loss"].value - facts["base_training_loss"].value
    assert facts["generalization_gap"].value == pytest.approx(whole, rel=1e-9)
    assert facts["gap_learned"].value == pytest.approx(whole - base, rel=1e-9)


def test_gap_of_totals():
    training = torch.tensor([20.0, 10.0, 30.0, 10.0])  # 2 nats, of the base 3
    validation = torch.tensor([12.0, 4.0, 14.0, 4.0])  # 3, of the base 3.5
    assert gap(training, validation) == 1.0
    assert gap_learned(training, validation) == 0.5


def test_memorising_widens_the_gap(run):
    found = {}
    for rate in (1e-5, 2e-3):
        subject = Subject.open(
            run(learning_rate=rate, validation_split=0.3, batch_size=8, steps=40)
        )
        facts = {fact.name: fact for fact in generalization_gap.measure(subject)}
        found[rate] = facts["gap_learned"]
    assert abs(found[1e-5].value) < 0.05
    assert found[2e-3].low > 0.3
    assert found[2e-3].low < found[2e-3].value < found[2e-3].high
