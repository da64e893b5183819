"""docs/diagnosis.md is what the rule table prints, to the end of every branch."""

from pathlib import Path

from qlora.doctor.facts import KINDS
from qlora.doctor.rules.table import RULES
from qlora.doctor.tree import page

PAGE = Path(__file__).parents[3] / "docs/diagnosis.md"


def test_the_page_is_in_step():
    again = "python -m qlora.doctor.tree > docs/diagnosis.md"
    assert PAGE.read_text(encoding="utf-8") == page(), again


def test_every_branch_goes_to_its_end():
    text = page()
    for rule in RULES.values():
        assert f"#### {rule.cause}" in text
        assert all(step in text for step in (*rule.next_steps, rule.experiment))
        assert all(condition.reason in text for condition in rule.conditions)
    assert all(f"| `{name}` |" in text for name in KINDS)


def test_a_branch_ends_with_what_is_left_to_do():
    capacity = " ".join(RULES["capacity-too-low"].next_steps)
    assert capacity.index("--rslora") < capacity.index("--method full") < capacity.index("base")
    brittle = " ".join(RULES["quantization-brittle"].next_steps)
    assert brittle.index("int8") < brittle.index("--format none")
