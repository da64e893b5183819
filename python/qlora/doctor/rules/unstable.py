"""Causes of a loss that jumps, climbs or stops being a number."""

from qlora.doctor.rules.rule import Condition, Rule, Symptom

JUMP = Condition(
    "gradient_norm_jump", ">", 10.0, 1.5, 0.25,
    says="{detail}",
    denies="no step's gradient norm rose above {value:.1f}x its usual value",
    reason="clipping to 1.0 hides less; healthy norms wander by a factor of 2 or 3, and NF4's"
    " failure was reported as 1.2 to 47.5",
)  # fmt: skip
BROKEN = Condition(
    "nonfinite_steps", ">", 0.0, 2.5, 0.0,
    says="{detail}",
    denies="every loss and norm was a number",
    reason="any step counts: a loss that is not a number does not come back by itself",
)  # fmt: skip

DIVERGED = Condition(
    "divergence", ">", 0.25, 2.0, 0.5,
    says="{detail}: it lost again what it had, or never learned it",
    denies="training loss ended within {value:.2f} nats of its best",
    reason="a quarter of a nat is more than noise or any schedule undoes",
)  # fmt: skip
CLIMBED = Condition(
    "overshoot", ">", 0.5, 3.0, 1.0,
    says="{detail}",
    denies="training loss never stayed above its start",
    reason="half a nat: the scatter of batches moves a median of five by less",
)  # fmt: skip

POISONED = Rule(
    "poisoned-batch",
    "A batch that does not belong to the data hit one step",
    -3.0,
    (
        Condition(
            "loss_jump_z", ">", 8.0, 3.0, 3.0,
            says="{detail}",
            denies="the loss never jumped: at most {value:+.1f} deviations from its median",
            reason="of normal noise one step in 10^15 is further out; batches of unequal"
            " difficulty stay below 6",
        ),
        Condition(
            "loss_jumps", "<", 2.5, 0.5, 4.0,
            says="{detail}, not all the time",
            denies="the loss jumped {value:.0f} times: that is no single batch",
            reason="one bad file gives one or two bad batches; what comes back has another cause",
        ),
        Condition(
            "loss_jump_recovered", ">", 0.5, 2.0, 2.5,
            says="{detail}: the step was an exception, not the start of something",
            denies="the loss did not come back after its jump ({value:.0%} of it in 10 records)",
            reason="half of the jump: bad data passes with its step, a rate that is too high stays",
        ),
        Condition(
            "jump_rows_z", ">", 4.0, 2.0, 8.0,
            says="{detail}",
            denies="the rows of that step are like any others: {detail}",
            reason="of steps with rows drawn from the data one in 30,000 is further out; where the"
            " base is not surprised, the jump is the training's own, whatever it looks like",
        ),
        JUMP,
        Condition(
            "divergence", ">", 0.25, -1.5, -0.5,
            says="the run did not recover: {detail}",
            denies="training went on as before: {detail}",
            reason="a quarter of a nat is more than any schedule undoes",
        ),
    ),
    ("learning-rate-too-high", "quantization-brittle"),
    ("--max-norm 0.3, and take the rows of that step out of the data",),
    "Train again with the same seed without the rows of that step: the jump should be gone; with"
    " them in another order, it should move with them.",
    (
        "Look at the rows of that step: mojibake, base64, another language, one line repeated.",
        "If the jump stays at its step without them, it is the learning rate: judge that branch.",
    ),
)  # fmt: skip

RATE_TOO_HIGH = Rule(
    "learning-rate-too-high",
    "The learning rate is too high for this model and data",
    -2.5,
    (
        Condition(
            "update_ratio_peak", ">", 0.25, 2.0, 2.0,
            says="{detail}, where steps of a healthy run stay below 1 in 10",
            denies="no step moved the adapters by more than {value:.2g} of their size",
            reason="4 such steps in one direction replace the adapter",
        ),
        DIVERGED,
        CLIMBED,
        Condition(
            "training_fall", "<", 0.0, 2.0, 0.25,
            says="{detail}: training made its own loss worse",
            denies="training lowered its own loss by {value:.3f} nats",
            reason="0: gradient descent at a rate that suits lowers the loss it descends on",
        ),
        Condition(
            "loss_jump_recovered", ">", 0.5, -0.5, -0.5,
            says="the largest jump was gone soon after",
            denies="a jump of the loss stayed: {detail}",
            reason="half of the jump: bad data passes with its step, a rate that is too high stays",
        ),
        JUMP,
        BROKEN,
        Condition(
            "learning_rate_peak", ">", 2e-3, 1.0, 0.5,
            says="the rate went up to {value:.2g}; LoRA's are 1e-4 to 1e-3",
            denies="a rate of {value:.2g} is usual for LoRA",
            reason="10 times QLoRA's 2e-4: what full fine-tuning takes 10 to 100 times lower",
        ),
        Condition(
            "learning_rate_peak", ">", 2e-2, 1.5, 0.0,
            says="no recipe for LoRA goes anywhere near",
            denies="{detail}",
            reason="100 times QLoRA's 2e-4",
        ),
    ),
    ("poisoned-batch", "quantization-brittle"),
    (
        "--learning-rate {lower_rate:.2g} --lora-plus-ratio {lora_plus_ratio:g}",
        "--learning-rate {lower_rate:.2g}",
        "--learning-rate 2e-4",
    ),
    "Train a tenth of the steps at a third and at a tenth of the rate: the loss should fall"
    " smoothly, and its jumps should shrink with the rate.",
    (
        "Still unstable at a tenth: --warmup 0.1 --max-norm 0.3.",
        "Still: --format int8 for the layers with the largest gradient norms, then --format none"
        " (the branch of quantization-brittle).",
        "Still, in 16 bits at a low rate: it is the data; look at the rows of the first jump.",
    ),
)  # fmt: skip

BRITTLE = Rule(
    "quantization-brittle",
    "This model does not bear the 4-bit base",
    -3.0,
    (
        Condition(
            "quantization_error", ">", 0.2, 2.5, 2.0,
            says="{detail}; worst in {layers}",
            denies="quantized layers answer within {value:.1%} of the dense ones",
            reason="NF4 errs by 0.09 on normal weights; twice that means outliers it cannot hold",
        ),
        Condition(
            "quantization_loss", ">", 0.05, 1.5, 2.0,
            says="{detail}",
            denies="the 4-bit base is within {value:.1%} of the 16-bit one",
            reason="5 %: above it the memory saved is not worth what is lost",
        ),
        JUMP,
        BROKEN,
    ),
    ("learning-rate-too-high", "poisoned-batch"),
    ("--format-pattern down_proj=int8", ),
    "Evaluate the base alone with --format nf4, int8 and none: the distance should be there before"
    " any training.",
    (
        "Still more than 5 % below 16 bits: --format int8 for all layers.",
        "Still: --format none, LoRA over 16 bits, with --gradient-checkpointing for memory.",
        "Still unstable in 16 bits: it was not the format; judge the learning rate.",
    ),
)  # fmt: skip

UNSTABLE = Symptom(
    "unstable",
    "Does the loss jump, climb or stop being a number?",
    (BROKEN, CLIMBED, DIVERGED),
    (POISONED, RATE_TOO_HIGH, BRITTLE),
)
