"""The recipe as a file: every setting that matters, each with its reason beside it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from qlora.recipe.rules import advise
from qlora.train.settings import TrainSettings

# Sections, each a key and its reason; None: the rules say it. All other settings of a run are
# OMITTED: places, or what is only set for a reason of one's own.
SECTIONS: tuple[tuple[tuple[str, str | None], ...], ...] = (
    (
        ("model", "the base, which stays frozen"),
        ("data", "what is learned"),
        ("validation", "decides which adapter is kept, and when to stop"),
        (
            "validation_split",
            "held out of the data; decides which adapter is kept, and when to stop",
        ),
    ),
    (
        ("method", "adapters over a frozen base"),
        ("format", "4 bits a weight; the adapters learn around what that loses"),
        ("double_quant", "scales in 8 bits too: 0.516 bytes per weight instead of 0.563"),
        ("rank", "on all linear layers, more rank rarely changes the result (QLoRA)"),
        ("alpha", None),
        ("targets", "attention alone stays behind full fine-tuning (QLoRA); facts need the rest"),
        ("dropout", None),
    ),
    (
        ("sequence_length", "tokens in a row; longer examples lose their end"),
        ("packing", "several examples in a row that do not see each other: no padding"),
        ("batch_size", "rows in a forward pass; to save memory halve it and double accumulate"),
        ("accumulate", "forward passes in one step"),
        ("epochs", "at most: early stopping ends it where validation no longer falls"),
    ),
    (
        ("learning_rate", None),
        ("lora_plus_ratio", None),
        ("lr_schedule", "long at the top, gentle at the end"),
        ("warmup", "share of the steps in which the rate rises; QLoRA's"),
        ("weight_decay", None),
        ("optimizer", "32-bit states of small adapters take little; paged-adamw-8bit a quarter"),
        ("max_norm", "clips the gradient: one bad batch moves no more than any other"),
        ("gradient_checkpointing", "true saves most of the activations, for a third more time"),
    ),
    (
        ("patience", "early stopping: so many validations without a gain end the run"),
        ("preflight", "proves before the first step that every adapter gets a gradient"),
        ("seed", "the same seed gives the same bits"),
    ),
)
OMITTED = {
    *("output", "resume", "format_pattern", "block_size", "scale_search", "rank_pattern"),
    *("alpha_pattern", "rslora", "dora", "exclude", "trainable_tokens", "modules_to_save", "untie"),
    *("bias", "init", "dropout_on", "steps", "optimizer_memory", "evaluate_every", "save_every"),
    *("keep", "from_adapter", "replay"),
}

PLAIN = re.compile(r"[A-Za-z/][\w./-]*")  # text that YAML reads as text without quotes,
WORDS = {"true", "false", "yes", "no", "on", "off", "null", "none", "y", "n"}  # but for these
COLUMN = 28


@dataclass(frozen=True)
class Recipe:
    """Settings that lack nothing, and why each is what it is."""

    settings: TrainSettings
    reasons: Mapping[str, str]

    @staticmethod
    def of(told: TrainSettings, num_examples: int) -> "Recipe":
        """What the rules make of so many examples."""
        advice = {name: a.reason for name, a in advise(told.case(num_examples)).items()}
        reasons = {
            name: reason or advice[name]
            for section in SECTIONS
            for name, reason in section
            if getattr(told, name) is not None or name in advice
        }
        # A file of its own needs no split.
        reasons.pop("validation_split" if told.validation else "validation", None)
        return Recipe(told.following(num_examples), reasons)

    @property
    def values(self) -> dict[str, Any]:
        """Key -> value, as a program reads them."""
        return {name: getattr(self.settings, name) for name in self.reasons}

    def lines(self, without: tuple[str, ...] = ()) -> list[str]:
        """YAML, a comment behind every value; for keys in `without` the comment alone."""
        lines = []
        for section in SECTIONS:
            lines += [
                self._line(name, name in without) for name, _ in section if name in self.reasons
            ]
            lines.append("")
        return lines[:-1]

    def _line(self, name: str, without: bool) -> str:
        if without:
            return f"# {name}: give it here, or as --{name}"
        pair = f"{name}: {as_yaml(getattr(self.settings, name))}"
        return f"{pair.ljust(COLUMN)}  # {self.reasons[name]}"


def as_yaml(value: Any) -> str:
    """A scalar as any YAML reads it, 1.1 or 1.2: numbers without exponents, odd texts quoted."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return format(Decimal(repr(value)), "f")
    text = str(value)
    plain = PLAIN.fullmatch(text) and text.lower() not in WORDS
    return text if plain else '"' + "".join(map(_escaped, text)) + '"'


def _escaped(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    return character if character.isprintable() else f"\\U{ord(character):08x}"
