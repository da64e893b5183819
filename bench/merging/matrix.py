"""Judge every mix of every seed, each once: what is judged is kept beside the adapters."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

from bench.merging.judge import Judge
from bench.merging.mixes import MERGED_SKILLS, MERGED_STYLES, SUBTRACTED_SKILLS, Mix
from qlora.merge import MergeSpec, merge_adapters
from qlora.merge.methods import METHODS
from qlora.provenance import commit
from qlora_kernels.files import write_text

Say = Callable[[str], object]
SKILL_MIXES = MERGED_SKILLS | SUBTRACTED_SKILLS


@dataclass(frozen=True)
class Matrix:
    """The folder of the adapters `<task>-seed-<seed>`, and what judges them."""

    root: Path
    judge: Judge
    say: Say

    def skills(self, seed: int, with_base: bool) -> Iterator[dict[str, Any]]:
        """One judgement per mix of the two tasks; the base, which has no seed, only once."""
        return self._judgements("skills", SKILL_MIXES, seed, with_base)

    def styles(self, seed: int, with_base: bool) -> Iterator[dict[str, Any]]:
        """The same per mix of the two styles."""
        return self._judgements("styles", MERGED_STYLES, seed, with_base)

    def _judgements(
        self, kind: str, mixes: Mapping[str, Mix], seed: int, with_base: bool
    ) -> Iterator[dict[str, Any]]:
        for key, mix in mixes.items():
            if mix.parents:
                yield self._once(kind, key, mix, seed)
            elif with_base:
                yield self._once(kind, key, mix, 0)

    def _once(self, kind: str, key: str, mix: Mix, seed: int) -> dict[str, Any]:
        done = self.root / "judged" / f"{kind}-{key}-seed-{seed}.json"
        if not done.exists():
            start = perf_counter()
            adapter, merged = self._adapter(key, mix, seed)
            found = asdict((self.judge.skills if kind == "skills" else self.judge.style)(adapter))
            row = {"mix": key, "seed": seed, "commit": commit(), **merged, **found}
            write_text(done, json.dumps(row) + "\n")
            self.say(f"{kind} {mix.title}, seed {seed}, {perf_counter() - start:.0f} s: {found}")
        row = json.loads(done.read_text(encoding="utf-8"))
        assert isinstance(row, dict)
        return row

    def _adapter(self, key: str, mix: Mix, seed: int) -> tuple[Path | None, dict[str, Any]]:
        """The folder of the mix, merged now if need be, and what is to be told of the merge."""
        parents = [self.root / f"{task}-seed-{seed}" / "training/adapter" for task in mix.parents]
        if mix.spec is None:
            return (parents[0] if parents else None), {}
        folder = self.root / "merged" / f"{key}-{'-'.join(mix.parents)}-seed-{seed}"
        if not folder.exists():
            merge_adapters(parents, folder, _seeded(mix.spec, seed))
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        return folder, {"merge": {"spec": report["spec"], **report["overall"]}}


def _seeded(spec: MergeSpec, seed: int) -> MergeSpec:
    """What is dropped at random differs between the seeds, as what is trained at random does."""
    return replace(spec, seed=seed) if "seed" in METHODS[spec.method].options else spec
