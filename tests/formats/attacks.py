"""Ways to spoil a good adapter folder, and what its reader must say to each."""

import os
from collections.abc import Callable
from pathlib import Path

import torch

from formats.adapters import (
    CONFIG_FILE,
    LAYERS,
    PREFIX,
    WEIGHTS_FILE,
    edit_config,
    edit_header,
    edit_tensors,
)

A, B = (f"{PREFIX}{LAYERS[0]}.lora_{part}.weight" for part in "AB")


def replaced(old: str, new: str) -> Callable[[Path], None]:
    return lambda path: edit_header(path, lambda text: text.replace(old, new, 1))


def spoiled(value: float) -> Callable[[Path], None]:
    return lambda path: edit_tensors(path, lambda tensors: tensors[A][1, 2].fill_(value))


def with_tensors(**tensors: torch.Tensor) -> Callable[[Path], None]:
    named = {"A": A, "B": B}
    return lambda path: edit_tensors(
        path, lambda held: held.update({named[n]: t for n, t in tensors.items()})
    )


def with_key(key: str, *size: int) -> Callable[[Path], None]:
    return lambda path: edit_tensors(path, lambda held: held.update({key: torch.zeros(size)}))


def configured(**changes: object) -> Callable[[Path], None]:
    return lambda path: edit_config(path, **changes)


def written(file: str, data: bytes) -> Callable[[Path], object]:
    return lambda path: (path / file).write_bytes(data)


def sparse(file: str, size: int) -> Callable[[Path], None]:
    return lambda path: os.truncate(path / file, size)


def piped(file: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        (path / file).unlink()
        os.mkfifo(path / file)

    return change


# What is wrong -> how, and what the one line must say.
ATTACKS: dict[str, tuple[Callable[[Path], object], str]] = {
    "NaN": (spoiled(float("nan")), "lora_A.weight should be finite"),
    "infinity": (spoiled(float("-inf")), "lora_A.weight should be finite"),
    "A of three dimensions": (with_tensors(A=torch.zeros(4, 3, 4)), "A [r, in] and B [out, r]"),
    "A of no dimension": (with_tensors(A=torch.zeros(())), "A [r, in] and B [out, r]"),
    "other ranks": (with_tensors(A=torch.zeros(5, 12)), "A [r, in] and B [out, r]"),
    "rank against config": (
        with_tensors(A=torch.zeros(5, 12), B=torch.zeros(10, 5)),
        "should have rank 4 by its config",
    ),
    "no B": (lambda p: edit_tensors(p, lambda t: t.pop(B)), "A [r, in] and B [out, r]"),
    "nothing": (lambda p: edit_tensors(p, lambda t: t.clear()), "should hold a LoRA factor"),
    "integers": (with_tensors(A=torch.zeros(4, 12, dtype=torch.int8)), "should be F64, F32"),
    "no elements": (with_tensors(A=torch.zeros(0, 2**40)), "should not be empty"),
    "a bias of LoRA": (with_key(B.replace("weight", "bias"), 10), "should be a LoRA factor"),
    "a key that is a path": (with_key("../../etc/passwd", 2), "should be a LoRA factor"),
    "a key of two lines": (with_key(f"{PREFIX}a\nb.lora_A.weight", 2), "plain tensor names"),
    "a long key": (with_key("a" * 2000, 2), "plain tensor names"),
    "a magnitude alone": (
        with_key(f"{PREFIX}x.lora_magnitude_vector", 2),
        "x should have A and B, has a magnitude alone",
    ),
    "a magnitude without DoRA": (
        with_key(f"{PREFIX}{LAYERS[0]}.lora_magnitude_vector", 10),
        "has a magnitude, and use_dora is False",
    ),
    "DoRA without magnitudes": (configured(use_dora=True), "has no magnitude"),
    "the same layer twice": (with_key(A.removeprefix(PREFIX), 4, 12), "once"),
    "token rows without tokens": (
        with_key(f"{PREFIX}model.embed_tokens.token_adapter.trainable_tokens_delta", 2, 12),
        "a row for each of 0 different tokens",
    ),
    "a key twice": (replaced(LAYERS[1], LAYERS[0]), "stands twice"),
    "a shape beyond the bytes": (replaced("[4,12]", "[4,1200000000000]"), "readable safetensors"),
    "a negative shape": (replaced("[4,12]", "[-4,-12]"), "readable safetensors"),
    "an offset outside": (
        replaced('"data_offsets":[0,', '"data_offsets":[9,'),
        "readable safetensors",
    ),
    "an unknown dtype": (replaced('"F32"', '"Q99"'), "readable safetensors"),
    "a deep header": (
        written(WEIGHTS_FILE, (10**5).to_bytes(8, "little") + b"[" * 10**5),
        "readable safetensors",
    ),
    "a huge header": (written(WEIGHTS_FILE, b"\xff" * 64), "the header does not fit"),
    "a short file": (written(WEIGHTS_FILE, b"\x01"), "readable safetensors"),
    "an enormous file": (sparse(WEIGHTS_FILE, 2**43), "more than this machine's memory"),
    "a pipe for weights": (piped(WEIGHTS_FILE), "not a file"),
    "a pipe for the config": (piped(CONFIG_FILE), "not a file"),
    "an enormous config": (sparse(CONFIG_FILE, 2**40), "should have at most"),
    "a deep config": (written(CONFIG_FILE, b'{"a":' * 10**5), "should be readable JSON"),
    "a config of bytes": (written(CONFIG_FILE, b"\xff\xfe\x00"), "should be readable JSON"),
    "a config that is a list": (written(CONFIG_FILE, b"[]"), "should be a JSON object, was a list"),
    "NaN for alpha": (configured(lora_alpha=float("nan")), "NaN is no number"),
    "1e999 for alpha": (
        lambda p: (p / CONFIG_FILE).write_text(
            '{"peft_type": "LORA", "r": 4, "lora_alpha": 1e999}'
        ),
        "lora_alpha should be a number above 0",
    ),
    "a number of 5000 digits": (
        lambda p: (p / CONFIG_FILE).write_text('{"peft_type": "LORA", "r": 1' + "0" * 5000 + "}"),
        "should be readable JSON",
    ),
    "a huge rank": (
        configured(r=10**9),
        "r should be a whole number from 1 to 65536, was 1000000000",
    ),
    "a rank of truth": (configured(r=True), "r should be a whole number"),
    "a rank of text": (configured(r="4"), "r should be a whole number"),
    "a huge rank in a pattern": (
        configured(rank_pattern={"q_proj": 10**9}),
        "rank_pattern should be",
    ),
    "patterns of a list": (configured(alpha_pattern=["q_proj"]), "alpha_pattern should be"),
    "a pattern that is none": (configured(alpha_pattern={"(": 2}), "a pattern should be a regular"),
    "a pattern that looks back": (configured(alpha_pattern={r"(a)\1": 2}), "a pattern should be"),
    "a pattern of counts": (
        configured(alpha_pattern={"(a{9999}){9999}": 2}),
        "a pattern should be",
    ),
    "a deep pattern": (configured(alpha_pattern={"(" * 900: 2}), "a pattern should be"),
    "a base that is a list": (configured(base_model_name_or_path=["x"]), "should be text"),
    "targets of numbers": (configured(target_modules=[1]), "target_modules should be"),
    "tokens of text": (configured(trainable_token_indices=["1"]), "trainable_token_indices should"),
    "another kind": (configured(peft_type="LOHA"), "should describe a LORA adapter"),
    "a kind that is a list": (configured(peft_type=["LORA"]), "should describe a LORA adapter"),
    "a base that was changed": (
        configured(init_lora_weights="pissa"),
        "init_lora_weights should be",
    ),
    "an init that is a list": (configured(init_lora_weights=[1]), "init_lora_weights should be"),
    "another formula": (configured(lora_bias=True), "uses lora_bias"),
    "a formula of the future": (configured(use_sorcery=True), "uses use_sorcery"),
}
