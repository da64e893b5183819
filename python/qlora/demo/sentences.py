"""Sentence templates of Home Assistant, and random sentences that they describe."""

import importlib.resources
import json
from dataclasses import dataclass, field
from random import Random

import hassil
from hassil.expression import Expression

from qlora.demo.vocabulary import AREAS, FLOORS, FREE_TEXT, NAMES


@dataclass(frozen=True)
class Template:
    """One sentence template: `text` in hassil's language, and the intent that a match means.

    `domains` are Home Assistant's kinds of device that its `{name}` may stand for.
    """

    intent: str
    text: str
    domains: tuple[str, ...]
    sentence: hassil.Sentence = field(compare=False, repr=False)  # `text`, parsed


class Grammar:
    """The English templates of home-assistant-intents, and the rules and lists they refer to."""

    def __init__(self) -> None:
        """Parse the package's English data; about a second of work."""
        data = importlib.resources.files("home_assistant_intents") / "data" / "en.json"
        self._intents = hassil.Intents.from_dict(json.loads(data.read_text(encoding="utf-8")))

    def templates(self) -> list[Template]:
        """Every distinct (intent, template text); the domains of repeated texts are united."""
        merged: dict[tuple[str, str], Template] = {}
        for intent in self._intents.intents.values():
            for block in intent.data:
                for sentence in block.sentences:
                    text = str(sentence.text)
                    known = merged.get((intent.name, text))
                    domains = sorted(block.domains | set(known.domains if known else ()))
                    template = Template(intent.name, text, tuple(domains), sentence)
                    merged[intent.name, text] = template
        return list(merged.values())

    def sentence(self, template: Template, random: Random) -> str:
        """One sentence that the template describes, every choice in it drawn from `random`."""
        return " ".join(self._expand(template.sentence.expression, template, random).split())

    def _expand(self, expression: Expression, template: Template, random: Random) -> str:
        match expression:
            case hassil.TextChunk():
                return expression.original_text
            case hassil.Alternative():
                return self._expand(random.choice(expression.items), template, random)
            case hassil.Permutation():
                items = random.sample(expression.items, len(expression.items))
                return " ".join(self._expand(item, template, random) for item in items)
            case hassil.Sequence():
                return "".join(self._expand(item, template, random) for item in expression.items)
            case hassil.RuleReference():
                rule = self._intents.expansion_rules[expression.rule_name]
                return self._expand(rule.expression, template, random)
            case hassil.ListReference():
                return self._fill(expression.list_name, template, random)
        raise TypeError(f"demo: a template part that hassil knows, was {type(expression).__name__}")

    def _fill(self, list_name: str, template: Template, random: Random) -> str:
        match list_name:
            case "area":
                return random.choice(AREAS)
            case "floor":
                return random.choice(FLOORS)
            case "name":
                return random.choice(NAMES[random.choice(template.domains)])
        values = self._intents.slot_lists[list_name]
        match values:
            case hassil.RangeSlotList():
                return str(random.choice(list(values.get_numbers())))
            case hassil.TextSlotList():
                return self._expand(random.choice(values.values).text_in, template, random)
        return random.choice(FREE_TEXT[list_name])
