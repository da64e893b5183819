"""Causes of a training loss that hardly falls: nothing arrives at the adapters, or too little."""

from dataclasses import replace

from qlora.doctor.rules.rule import Condition, Rule, Symptom

FLAT = Condition(
    "sure_fall", "<", 0.01, 1.5, 2.0,
    says="{detail}, no more than chance would move it",
    denies="training loss did fall, by at least {value:.0%}",
    reason="a hundredth, at the near end of the interval: what is not noise, the first steps of any"
    " working run take off",
)  # fmt: skip

FROZEN = Rule(
    "frozen-adapters",
    "The adapters are not being trained",
    -3.0,
    (
        Condition(
            "unchanged_parameters", ">", 0.1, 5.0, 5.0,
            says="{detail}",
            denies="{value:.1%} of the adapter parameters are what they were at the start",
            reason="AdamW moves every parameter that ever had a gradient, however small: a tenth"
            " that never moved is no chance",
        ),
        Condition(
            "zero_gradient_steps", ">", 0.5, 1.5, 0.25,
            says="{detail}",
            denies="gradients did arrive",
            reason="half: a dead batch now and then is data, more is wiring",
        ),
        replace(FLAT, against=0.0),  # some layers may be frozen, and the others learn
    ),
    ("learning-rate-too-low", "masked-labels", "capacity-too-low"),
    (
        "give the optimizer what is trained, after prepare_model:"
        " optim.AdamW(qk.nn.parameter_groups(model, config))",
    ),
    "One step, then compare: every lora_b that is still zero had no gradient or was not in the"
    " optimizer.",
    (
        "requires_grad is False on them: something froze the model after the adapters were made.",
        "requires_grad is True but grad is None: --no-gradient-checkpointing, or"
        " model.enable_input_require_grads() before it.",
        "Gradients are there and parameters still do not move: they are 16-bit and the steps too"
        " small for it; keep the adapters in float32.",
    ),
)  # fmt: skip

MASKED = Rule(
    "masked-labels",
    "Almost no token is supervised",
    -2.5,
    (
        Condition(
            "unanswered_examples", ">", 0.5, 5.0, 3.0,
            says="{detail}",
            denies="{value:.0%} of the examples teach nothing but where to stop",
            reason="half: an empty answer now and then is data, most of them is a template",
        ),
        Condition(
            "supervised_share", "<", 0.05, 3.0, 1.0,
            says="{detail}",
            denies="{value:.0%} of the tokens are learned from",
            reason="one token in 20: answers are rarely shorter against their prompts, so that less"
            " is a mask that caught the answers too",
        ),
        Condition(
            "zero_gradient_steps", ">", 0.05, 1.0, 0.0,
            says="{detail}: batches without a label",
            denies="every step had a gradient",
            reason="a batch without any label gives no gradient; one in 20 is no accident",
        ),
        replace(FLAT, against=0.0),  # an end token is learned fast, and the loss falls

    ),
    ("frozen-adapters", "learning-rate-too-low"),
    ("check the template: prompt and completion, or messages with an assistant's turn, per row",),
    "Print one example with its labels (`qlora recipe DATA --model M` counts them): the answer"
    " should be unmasked, its end token included.",
    (
        "Answers are cut off: --sequence-length longer than the prompts.",
        "The pad token is the end token and masks it: give the tokenizer a pad token of its own.",
        "Labels are right and the loss is still flat: judge the learning rate.",
    ),
)  # fmt: skip

UNKNOWN_SCRIPT = Rule(
    "unknown-script",
    "The text is in a script that the base hardly knows",
    -2.5,
    (
        Condition(
            "unknown_script", ">", 0.3, 4.0, 3.5,
            says="{detail}",
            denies="{value:.0%} of the text is in scripts that the tokenizer cuts to pieces",
            reason="a third of the text: names and quotations in another script stay below",
        ),
        Condition(
            "characters_per_token", "<", 1.5, 1.5, 1.0,
            says="the tokenizer makes a token of every {value:.1f} characters",
            denies="a token has {value:.1f} characters, as text that the tokenizer knows",
            reason="1.5: alphabets that a tokenizer has learned give 3 to 5, bytes of an unknown"
            " one less than 1",
        ),
        Condition(
            "base_training_loss", ">", 5.0, 0.5, 0.5,
            says="the base starts at {value:.1f} nats a token: it has not seen such text",
            denies="the base predicts this text at {value:.1f} nats a token",
            reason="5 nats: 150 equally likely tokens, what models give for text they never saw",
        ),
    ),
    ("capacity-too-low", "learning-rate-too-low", "drifted-data"),
    ("--model another base: a multilingual one whose tokenizer has 2 or more characters a token",),
    "Compare characters per token of two tokenizers on this file (`qlora recipe DATA --model M`):"
    " a base that suits has twice as many.",
    (
        "No such base at hand: --trainable-tokens for new tokens, --modules-to-save embed_tokens"
        " lm_head, and ten times the data.",
        "Still: continue pretraining in that script before fine-tuning.",
    ),
)  # fmt: skip

RATE_TOO_LOW = Rule(
    "learning-rate-too-low",
    "The learning rate is too low: the run moves in the right direction, too slowly",
    -2.5,
    (
        Condition(
            "reach", "<", 5e-3, 2.0, 2.0,
            says="{detail}: too little to get anywhere",
            denies="the rates add up to {value:.2g}, which is enough to get somewhere",
            reason="entries of B, which start at 0, are a hundredth or more in finished runs; AdamW"
            " moves an entry by at most the rate in a step",
        ),
        Condition(
            "update_ratio", "<", 2e-4, 1.0, 0.5,
            says="{detail}",
            denies="a step moves the adapters by {value:.2g} of their size",
            reason="at 2e-4 an adapter needs 5,000 steps in one direction to move by its own size;"
            " how large A starts, which decides it, differs by init and rank",
        ),
        replace(FLAT, against=0.5),
        Condition(
            "gradient_left", ">", 0.1, 1.0, 1.0,
            says="the gradient is still {value:.2g} times the base's: much is left to learn",
            denies="little of the gradient is left ({value:.2g} times the base's)",
            reason="a tenth: runs that finished have a thirtieth or less of what they began with,"
            " unless the noise of small samples hides it",
        ),
        Condition(
            "captured_ratio", ">", 1.5, 1.0, 0.5,
            says="and the adapters can follow it: {value:.1f} times as well as random directions",
            denies="the adapters can follow what is left hardly better than random directions",
            reason="half above chance: adapters that have not converged still face the gradient",
        ),
        Condition(
            "late_fall_share", ">", 0.2, 1.0, 0.5,
            says="{detail}: the loss falls on a straight line",
            denies="the fall slowed down: {value:.0%} of it came in the last third",
            reason="a third of a straight line's fall is in its last third; curves that converge"
            " have a tenth",
        ),
        Condition(
            "learning_rate_peak", "<", 9e-5, 1.5, 1.5,
            says="the rate was at most {value:.2g}; LoRA's are 1e-4 to 1e-3",
            denies="a rate of {value:.2g} is usual for LoRA",
            reason="below what LoRA takes (1e-4 to 1e-3); full fine-tuning has a tenth of that",
        ),
        Condition(
            "unchanged_parameters", ">", 0.1, -3.0, 0.0,
            says="parameters did not move at all",
            denies="all adapter parameters moved, a little",
            reason="AdamW moves every parameter that ever had a gradient",
        ),
    ),
    ("frozen-adapters", "capacity-too-low", "stopped-too-early"),
    (
        "--learning-rate {higher_rate:.2g} --lora-plus-ratio {lora_plus_ratio:g}",
        "--learning-rate {higher_rate:.2g}",
        "--learning-rate 2e-4",
    ),
    "Train a tenth of the steps at 10 and at 30 times the rate: the loss should fall as many times"
    " faster at first.",
    (
        "Falls no faster at 10 times: gradients do not reach the loss; judge frozen adapters.",
        "--lora-plus-ratio 16: the second factor starts at zero and gains most from a higher rate.",
        "Fast, but ends where it was: it was capacity; judge that branch.",
    ),
)  # fmt: skip

HARDLY_FALLS = Symptom(
    "flat",
    "Does the training loss hardly fall?",
    (FLAT,),
    (FROZEN, MASKED, UNKNOWN_SCRIPT, RATE_TOO_LOW),
)
