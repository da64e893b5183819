"""adapter_config.json, read without trust: sizes, types and ranges first, then the values.

Nothing in it is followed or run: names of models stay text, `target_modules` is never compiled, and
patterns are matched in bounded time.
"""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from qlora_kernels.errors import InputError
from qlora_kernels.formats.adapter_folder.folder import AdapterFolderConfig
from qlora_kernels.formats.adapter_folder.patterns import parse

CONFIG_FILE = "adapter_config.json"
MAX_CONFIG_BYTES = 2**20
MAX_PATTERNS = 4096
MAX_RANK = 2**16  # above the width of any layer, where a rank says nothing any more
MAX_ALPHA = 1e6

# Fields that change the formula: whoever sets one means a layer that is not there.
_REFUSED = (
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "layer_replication",
    "lora_bias",
    "monteclora_config",
    "target_parameters",
    "use_bdlora",
    "use_qalora",
    "velora_config",
)
# Initialisations that leave the base weight as it was; others (pissa, olora, loftq, ...) subtract
# from it, and A and B alone say nothing without the base that they were trained on.
_INITS = (True, False, None, "gaussian", "eva", "orthogonal")
_USES = ("use_dora", "use_rslora")


def read_config(folder: str | Path) -> AdapterFolderConfig:
    """What adapter_config.json says; dropout_on is for the weights' metadata to say.

    Raises InputError for a file that is unreadable, too large or too deep, for a kind that is not
    LoRA or changes its formula, and for a field of a wrong type or range.
    """
    path = Path(folder) / CONFIG_FILE
    fields = _read_json(path)
    if fields.get("peft_type") != "LORA":
        raise InputError(f"adapter: {path} should describe a LORA adapter, does not")
    # A use_* field of a later peft changes the formula too; other fields that it adds may not.
    unknown = [n for n in fields if n.startswith("use_") and n not in (*_USES, *_REFUSED)]
    if used := [name for name in (*_REFUSED, *unknown) if fields.get(name)]:
        raise InputError(f"adapter: {path} should be LoRA or DoRA, uses {', '.join(used)}")
    if not any(fields.get("init_lora_weights", True) is init for init in _INITS[:3]):
        _check(
            path, fields, "init_lora_weights", lambda v: v in _INITS[3:], " or ".join(_INITS[3:])
        )
    missing = [name for name in ("r", "lora_alpha") if fields.get(name) is None]
    if missing:
        raise InputError(f"adapter: {path} should describe r and lora_alpha, lacks {missing[0]}")
    for name, (fits, wanted) in _RULES.items():
        if fields.get(name) is not None:
            _check(path, fields, name, fits, wanted)
    rank_pattern, alpha_pattern = (
        fields.get("rank_pattern") or {},
        fields.get("alpha_pattern") or {},
    )
    for pattern in (*rank_pattern, *alpha_pattern):
        parse(pattern)
    return AdapterFolderConfig(
        r=fields["r"],
        alpha=fields["lora_alpha"],
        rslora=bool(fields.get("use_rslora")),
        dora=bool(fields.get("use_dora")),
        rank_pattern=rank_pattern,
        alpha_pattern=alpha_pattern,
        base_model=fields.get("base_model_name_or_path"),
        dropout=float(fields.get("lora_dropout") or 0.0),
        target_modules=fields.get("target_modules"),
        modules_to_save=tuple(fields.get("modules_to_save") or ()),
        bias=fields.get("bias") or "none",
        raw=fields,
    )


def _read_json(path: Path) -> dict[str, Any]:
    """The object in the file; every way in which it can be none is one InputError."""
    try:
        if path.is_file() and path.stat().st_size > MAX_CONFIG_BYTES:
            raise ValueError(f"should have at most {MAX_CONFIG_BYTES} bytes")
        if path.exists() and not path.is_file():  # reading a pipe would wait for ever
            raise ValueError("not a file")
        fields = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_constant)
    except (OSError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"adapter: {path} should be readable JSON: {reason}") from None
    if not isinstance(fields, dict):
        raise InputError(f"adapter: {path} should be a JSON object, was a {type(fields).__name__}")
    return fields


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _check(
    path: Path, fields: Mapping[str, Any], name: str, fits: Callable[[Any], bool], wanted: str
) -> None:
    if not fits(fields[name]):
        was = repr(fields[name])
        raise InputError(f"adapter: {path}: {name} should be {wanted}, was {was[:80]}")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return _is_whole(value) or isinstance(value, float)


def _is_rank(value: Any) -> bool:
    return _is_whole(value) and 0 < value <= MAX_RANK


def _is_alpha(value: Any) -> bool:
    return _is_number(value) and math.isfinite(value) and 0 < value <= MAX_ALPHA


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _maps_to(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: (
        isinstance(value, dict) and len(value) <= MAX_PATTERNS and all(map(fits, value.values()))
    )


def _is_tokens(value: Any) -> bool:
    return isinstance(value, list) and all(_is_whole(t) and 0 <= t < 2**31 for t in value)


_RANK = f"a whole number from 1 to {MAX_RANK}"
_ALPHA = f"a number above 0 and at most {MAX_ALPHA:.0f}"
_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "r": (_is_rank, _RANK),
    "lora_alpha": (_is_alpha, _ALPHA),
    "lora_dropout": (lambda v: _is_number(v) and 0 <= v < 1, "in [0, 1)"),
    "use_rslora": (_is_flag, "true or false"),
    "use_dora": (_is_flag, "true or false"),
    "rank_pattern": (_maps_to(_is_rank), f"at most {MAX_PATTERNS} names, each with {_RANK}"),
    "alpha_pattern": (_maps_to(_is_alpha), f"at most {MAX_PATTERNS} names, each with {_ALPHA}"),
    "base_model_name_or_path": (lambda v: isinstance(v, str), "text"),
    "target_modules": (lambda v: isinstance(v, str) or _is_texts(v), "text or a list of texts"),
    "modules_to_save": (_is_texts, "a list of texts"),
    "bias": (lambda v: v in ("none", "all", "lora_only"), "none, all or lora_only"),
    "trainable_token_indices": (
        lambda v: _is_tokens(v) or _maps_to(_is_tokens)(v),
        "a list of tokens, or one for each embedding",
    ),
}
