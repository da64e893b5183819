"""What `qlora recipe` can be told: the data, and as much of a run as its lints depend on."""

# ruff: noqa: RUF009 (`setting` is dataclasses.field)

from dataclasses import dataclass
from pathlib import Path

from qlora.settings import setting
from qlora_kernels.errors import InputError


@dataclass(frozen=True)
class RecipeSettings:
    """One recipe; every field is a flag and a key of `--config`, by `qlora train`'s names."""

    data: Path | None = setting(None, "training data, .txt or .jsonl", positional=True)
    model: Path | None = setting(
        None, "model folder or .gguf file, whose tokenizer counts and lints; weights are not read"
    )
    validation: Path | None = setting(None, "validation data, instead of a split of DATA")
    sequence_length: int = setting(512, "tokens in a row; longer examples are cut")

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        if self.data is None:
            raise InputError("recipe: DATA should be given, was missing")
        if self.sequence_length < 2:
            raise InputError(
                f"recipe: sequence_length should be at least 2, was {self.sequence_length}"
            )
