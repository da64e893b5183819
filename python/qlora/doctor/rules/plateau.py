"""Causes of a training loss that falls and then stays too high."""

from qlora.doctor.rules.rule import Condition, Rule, Symptom

NO_GAP = Condition(
    "gap_learned", ">", 0.2, -1.5, -0.5,
    says="validation is worse than training by {value:.2f} nats that the base does not have",
    denies="validation follows training (gap {value:+.2f} nats beyond the base's)",
    reason="a fifth of a nat: a model that still lacks capacity cannot memorise",
)  # fmt: skip

STEPS_TOO_SMALL = Condition(
    "reach", "<", 5e-3, -2.0, 0.0,
    says="{detail}, which is too little to know",
    denies="steps were large enough: their {detail}",
    reason="entries of B, which start at 0, are a hundredth or more in finished runs; AdamW moves"
    " an entry by at most the rate in a step",
)  # fmt: skip

NOT_MOVED = Condition(
    "unchanged_parameters", ">", 0.1, -3.0, 0.0,
    says="parameters of the adapters that there are did not move at all",
    denies="the adapters that there are did learn",
    reason="AdamW moves every parameter that ever had a gradient",
)  # fmt: skip

WRONG_LAYERS = Rule(
    "wrong-layers",
    "The adapters are on layers that cannot learn this",
    -2.5,
    (
        Condition(
            "untargeted_gradient", ">", 0.2, 3.0, 4.0,
            says="{detail}",
            denies="{value:.0%} of the gradient falls on layers without an adapter",
            reason="a fifth of what the data still asks for falls where nothing can answer;"
            " where all linear layers have adapters it is 0",
        ),
        NO_GAP,
        NOT_MOVED,
    ),
    ("capacity-too-low", "overfitting", "learning-rate-too-low"),
    ("--targets all-linear",),
    "Train a tenth of the steps with --targets all-linear at a rank that gives as many parameters:"
    " training loss should leave this curve within a few hundred steps.",
    (
        "No better with all layers: judge capacity.",
        "New tokens or another format of answers: --modules-to-save embed_tokens lm_head.",
    ),
)  # fmt: skip

CAPACITY = Rule(
    "capacity-too-low",
    "The adapters are too small for what the data asks",
    -2.5,
    (
        Condition(
            "captured_gradient", "<", 0.1, 1.5, 1.0,
            says="{detail}",
            denies="the adapters can follow {value:.0%} of what is left to learn",
            reason="a tenth: nine parts in ten of what is left point where the adapters cannot go;"
            " in wide layers that is so for any rank, so it proves nothing alone",
        ),
        Condition(
            "capturable_gradient", "<", 0.6, 0.5, 0.0,
            says="even the best directions of this rank hold but {value:.0%} of what is left to"
            " learn",
            denies="as many new directions could hold {value:.0%} of what is left",
            reason="0.6: what is left spreads over more directions than the rank has; where the"
            " rank suffices, as many hold nearly all",
        ),
        Condition(
            "captured_ratio", "<", 1.25, 1.0, 0.5,
            says="that is no more than random directions could ({value:.1f} times as much)",
            denies="the adapters can follow what is left {value:.1f} times as well as chance",
            reason="a quarter above random directions: adapters at the end of what they can do have"
            " no gradient left along their own",
        ),
        Condition(
            "effective_rank", ">", 0.6, 1.0, 2.0,
            says="{detail}: no direction is spare",
            denies="the updates use {value:.0%} of their directions: a higher rank would idle",
            reason="shares of random updates of full use are above 0.6, of updates with room below",
        ),
        Condition(
            "rank", "<", 4.5, 1.5, 1.0,
            says="rank {value:.0f} is below what adapters usually get (16)",
            denies="rank {value:.0f} is enough for most tasks",
            reason="4 is the lowest rank that LoRA's authors found to suffice, on attention alone",
        ),
        Condition(
            "untargeted_gradient", ">", 0.2, -2.0, 0.0,
            says="most of the gradient falls on layers without an adapter",
            denies="the layers that the gradient asks have adapters ({value:.0%} falls on others)",
            reason="a fifth: beyond it, place comes before size",
        ),
        STEPS_TOO_SMALL,
        NOT_MOVED,
        NO_GAP,
    ),
    ("wrong-layers", "learning-rate-too-low", "overfitting"),
    ("--rank {higher_rank:.0f} --alpha {higher_alpha:.0f}", "--rank 16 --alpha 32"),
    "Train a tenth of the steps at 4 and 16 times the rank and the same alpha / rank: the curve"
    " should leave this one downwards at the place where this one flattens.",
    (
        "Still flat: --targets all-linear, where not all layers have adapters.",
        "Still flat: --rslora --rank 128; with plain scaling high ranks learn too slowly.",
        "Still flat: --method full --format none (full fine-tuning), if memory allows:"
        " `qlora plan MODEL --method full`.",
        "Full fine-tuning is no better: the base lacks it; take another or larger base, or look at"
        " how consistent the labels are.",
    ),
)  # fmt: skip

STOPPED_EARLY = Rule(
    "stopped-too-early",
    "The run ended while it was still learning",
    -2.5,
    (
        Condition(
            "late_fall_share", ">", 0.2, 2.0, 2.0,
            says="{detail}",
            denies="the fall slowed down: {value:.0%} of it came in the last third",
            reason="a third of a straight line's fall is in its last third; curves that converge"
            " have a tenth",
        ),
        Condition(
            "best_validation_place", ">", 0.95, 1.0, 2.0,
            says="validation was best at the very end",
            denies="validation was best at {value:.0%} of the run",
            reason="the last of ten validations or more",
        ),
        Condition(
            "learning_rate_end", ">", 0.3, 1.5, 1.5,
            says="{detail}: the schedule was cut off",
            denies="the rate had fallen to {value:.0%}: the schedule was complete",
            reason="cosine and linear schedules end below a tenth",
        ),
        STEPS_TOO_SMALL,
    ),
    ("learning-rate-too-low", "capacity-too-low"),
    ("--steps {more_steps:.0f}", "--epochs 3"),
    "Go on for as many steps again: validation should go on falling at the pace of its last third.",
    (
        "It stops falling soon: it was as good as done; judge capacity.",
        "Validation turns while training falls: judge overfitting.",
    ),
)  # fmt: skip

STAYS_HIGH = Symptom(
    "plateau",
    "Does the training loss fall, and then stay higher than it should?",
    (),
    (WRONG_LAYERS, CAPACITY, STOPPED_EARLY),
)
