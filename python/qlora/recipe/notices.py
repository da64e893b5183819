"""What the recipe has to say about the number of examples and about settings."""

from qlora.lint.notice import Notice
from qlora.recipe.rules import FEW
from qlora.train.settings import MOST_DROPOUT, TrainSettings

STRONG_DROPOUT = 0.2


def few_examples(num_examples: int) -> list[Notice]:
    """Below 1,000 examples tuning may not be the best that can be done with them."""
    if num_examples >= FEW:
        return []
    return [
        Notice(
            "few-examples",
            f"{num_examples:,} examples are few: a fine-tune learns so many by heart within a few"
            " epochs, whatever its dropout",
            (f"practice has it that tuning pays from about {FEW:,}",),
            "first try them as a few-shot prompt; else write variations of them (augmentation) or"
            " let a larger model write more (synthetic examples): either may beat tuning",
        )
    ]


def strong_dropout(settings: TrainSettings) -> list[Notice]:
    """Dropout of a bottleneck takes whole directions of an update away."""
    dropout = settings.dropout or 0.0
    if settings.method != "lora" or dropout < STRONG_DROPOUT:
        return []
    left = settings.rank * (1 - dropout)
    what = "of the adapter's inputs"
    if settings.dropout_on == "rank":
        what = f"of {settings.rank} rank directions, leaving {left:.1f} on average for a token,"
    return [
        Notice(
            "strong-dropout",
            f"dropout {dropout:g} switches off {dropout:.0%} {what} in every step: an adapter is a"
            " bottleneck already, and hardly learns through that",
            (f"up to {MOST_DROPOUT:g} is accepted; the recipe never takes more than 0.15",),
            "lower --dropout to 0.1 and regularise by --weight-decay, fewer epochs, or more data",
        )
    ]
