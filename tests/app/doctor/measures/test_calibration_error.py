import pytest
import torch

from qlora.doctor.measures import calibration_error as measured
from qlora.doctor.token_losses import TokenLosses


def losses(confidence, hit, sizes):
    return TokenLosses(
        loss=torch.zeros(len(confidence), dtype=torch.float64),
        confidence=torch.tensor(confidence, dtype=torch.float64),
        hit=torch.tensor(hit),
        sizes=torch.tensor(sizes),
    )


def test_by_hand():
    """Two of 0.9 of which one is right, two of 0.3 of which one is right, one surely right."""
    some = losses([0.9, 0.9, 0.3, 0.3, 1.0], [True, False, True, False, True], [2, 3])
    sums = measured.binned(some)
    assert sums.shape == (2, 15, 3)
    assert torch.equal(sums.sum((1,))[:, 0], torch.tensor([2.0, 3.0], dtype=torch.float64))
    total = sums.sum(0)
    assert float(measured.calibration_error(total)) == pytest.approx((0.8 + 0.4) / 5)
    assert float(measured.overconfidence(total)) == pytest.approx((1.8 + 0.6 + 1 - 3) / 5)


@pytest.mark.parametrize("shift", [0.0, 0.2])
def test_a_calibrated_model_has_little_error_and_a_surer_one_its_excess(shift):
    generator = torch.Generator().manual_seed(4)
    right = torch.rand(20_000, generator=generator, dtype=torch.float64) * 0.7 + 0.05
    hit = torch.rand(20_000, generator=generator, dtype=torch.float64) < right
    some = TokenLosses(right, right + shift, hit, torch.full((200,), 100))
    total = measured.binned(some).sum(0)
    assert float(measured.calibration_error(total)) == pytest.approx(shift, abs=0.02)
    assert float(measured.overconfidence(total)) == pytest.approx(shift, abs=0.02)


def test_facts_of_a_run(subject):
    facts = {fact.name: fact for fact in measured.measure(subject)}
    assert facts.keys() == {
        *("calibration_error_training", "calibration_error_validation", "overconfidence")
    }
    found = subject.losses("validation", tuned=True)
    excess = float(found.confidence.mean() - found.hit.double().mean())
    assert facts["overconfidence"].value == pytest.approx(excess, rel=1e-9)
    assert abs(excess) <= facts["calibration_error_validation"].value <= 1
    word = "sure" if excess > 0 else "unsure"
    assert f"{abs(excess):.1%} too {word}" in facts["overconfidence"].detail
