"""Sentences must be what their template describes, and the same for the same seed."""

from random import Random

import hassil
import pytest

from qlora.demo.sentences import Grammar, Template
from qlora.demo.vocabulary import AREAS, FREE_TEXT, NAMES


@pytest.fixture(scope="module")
def grammar() -> Grammar:
    return Grammar()


def template(text: str, *domains: str) -> Template:
    return Template("HassTest", text, domains, hassil.parse_sentence(text))


def sentences(grammar: Grammar, text: str, *domains: str) -> set[str]:
    random = Random(0)
    return {grammar.sentence(template(text, *domains), random) for _ in range(300)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("turn on", {"turn on"}),
        ("[the] lamp", {"lamp", "the lamp"}),
        ("(a|b) c[s]", {"a c", "a cs", "b c", "b cs"}),
        ("((off|out);here)", {"off here", "out here", "here off", "here out"}),
        ("<temp>", {"temp", "temperature"}),
        ("{on_off_states:state}", {"on", "off"}),
    ],
)
def test_every_choice_is_drawn_and_no_other(
    grammar: Grammar, text: str, expected: set[str]
) -> None:
    assert sentences(grammar, text) == expected


def test_lists_of_the_home_fill_the_gaps(grammar: Grammar) -> None:
    assert sentences(grammar, "{area}") == set(AREAS)
    assert sentences(grammar, "{name}", "lock", "fan") == {*NAMES["lock"], *NAMES["fan"]}
    assert sentences(grammar, "{timer_name:name}") == set(FREE_TEXT["timer_name"])
    percentages = sentences(grammar, "{position}")
    assert percentages <= {str(number) for number in range(101)}
    assert len(percentages) > 50


def test_every_template_can_be_filled(grammar: Grammar) -> None:
    templates = grammar.templates()
    assert len(templates) == 856
    assert len({item.intent for item in templates}) == 42
    random = Random(0)
    for item in templates:
        for _ in range(10):
            sentence = grammar.sentence(item, random)
            assert sentence == " ".join(sentence.split())
            assert sentence
            assert not set(sentence) & set("{}<>[]()|"), (item.text, sentence)


def test_the_same_seed_gives_the_same_sentences(grammar: Grammar) -> None:
    templates = grammar.templates()[::7]
    first, again, other = (
        [grammar.sentence(item, random) for item in templates]
        for random in (Random(1), Random(1), Random(2))
    )
    assert first == again != other
