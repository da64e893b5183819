"""Labels and scripts: what the training data itself tells."""

import json

import pytest

from qlora.data import Example
from qlora.doctor.measures import scripts, supervision
from qlora.doctor.subject import Subject
from qlora.lint.scripts import ScriptCost


def test_share_of_labels():
    some = [
        Example([1, 2, 3, 4], [-100, -100, 3, 4], "completion", "here"),
        Example([1, 2, 3, 4, 5, 6], [-100, -100, -100, -100, -100, 6], "completion", "there"),
    ]
    assert supervision.supervised_share(some) == 0.3


def test_texts_are_supervised_and_long_prompts_are_not(run, tmp_path):
    (fact,) = supervision.measure(Subject.open(run()))
    assert 0.9 < fact.value < 1
    data = tmp_path / "data.jsonl"
    rows = ({"prompt": "No " * 9, "completion": "Aye"} for _ in range(20))
    data.write_text("\n".join(map(json.dumps, rows)))
    (fact,) = supervision.measure(Subject.open(run(data=data, steps=2)))
    assert fact.value < 0.2
    assert "tokens carry a label, in 19 examples; fewest in" in fact.detail


def cost(script, share, tokens, pieces, english=0.25):
    return ScriptCost(script, int(share * 100), share, 100, tokens, pieces, "", english)


def test_scripts_are_weighed_by_their_letters():
    costs = [cost("Latin", 0.75, 25, 0), cost("Thai", 0.25, 200, 190)]
    assert scripts.characters_per_token(costs) == pytest.approx(1 / (0.75 * 0.25 + 0.25 * 2))
    assert scripts.unknown_share(costs) == 0.25


def test_every_form_of_row_has_its_texts():
    chat = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    assert list(scripts.texts_of(chat)) == ["a", "b"]
    assert list(scripts.texts_of({"prompt": "a", "completion": "b"})) == ["a", "b"]


def test_a_script_that_the_base_never_met(run, tmp_path):
    known = {fact.name: fact.value for fact in scripts.measure(Subject.open(run()))}
    assert known["unknown_script"] == 0 and known["characters_per_token"] > 1.5
    data = tmp_path / "thai.jsonl"
    rows = ({"text": f"แม่น้ำสายนี้ยาวมากและน้ำใสสะอาด {n}"} for n in range(20))
    data.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    subject = Subject.open(run(data=data, steps=2))
    unknown = {fact.name: fact for fact in scripts.measure(subject)}
    assert unknown["unknown_script"].value > 0.9
    assert unknown["characters_per_token"].value < 0.6
    assert "Thai" in unknown["unknown_script"].detail
