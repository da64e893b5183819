import pytest
import torch

import qlora_kernels as qk
from qlora.doctor.measures import forgetting
from qlora.doctor.subject import Subject


def test_divergence_in_float64():
    p, q = torch.tensor([0.5, 0.5]).double(), torch.tensor([0.25, 0.75]).double()
    by_hand = 0.5 * torch.log(p[0] / q[0]) + 0.5 * torch.log(p[1] / q[1])
    found = forgetting.divergence(p.log() + 3, q.log() - 1)  # logits have no zero point
    assert float(found) == pytest.approx(float(by_hand), rel=1e-12)
    assert float(forgetting.divergence(p.log(), p.log())) == 0


def test_sums_against_the_models_own_logits(subject):
    examples = subject.examples("probe")[:5]
    sums = forgetting.compare(subject.model, examples, subject.pad_id)
    for example, found in zip(examples, sums, strict=True):
        ids = torch.tensor([example.input_ids])
        with torch.no_grad():
            tuned = subject.model(ids).logits[0, :-1].double().log_softmax(-1)
            with qk.nn.disable_adapters(subject.model):
                base = subject.model(ids).logits[0, :-1].double().log_softmax(-1)
        label = ids[0, 1:, None]
        want = [
            -base.gather(1, label).sum(),
            -tuned.gather(1, label).sum(),
            (base.exp() * (base - tuned)).sum(),
            torch.tensor(len(label)),
        ]
        torch.testing.assert_close(
            found, torch.stack([w.double() for w in want]), rtol=1e-4, atol=1e-4
        )


def test_untrained_adapters_forget_nothing_and_wild_ones_much(run, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", lambda self, closure=None: None)
        still = run(steps=2, seed=7)
    calm, wild = (
        {fact.name: fact for fact in forgetting.measure(Subject.open(folder))}
        for folder in (still, run(learning_rate=5e-2))
    )
    assert calm["forgetting"].value == calm["forgetting_divergence"].value == 0
    assert wild["forgetting"].low > 0.5
    assert wild["forgetting_divergence"].low > 0.5
    assert "plain English" in wild["forgetting"].detail


def test_a_probe_of_the_users_own(run, tmp_path):
    text = tmp_path / "old.txt"
    text.write_text("From fairest creatures we desire increase, " * 40)
    subject = Subject.open(run(), probe=text)
    assert "old.txt" in forgetting.measure(subject)[0].detail
    assert all("old.txt" in e.source for e in subject.examples("probe"))
