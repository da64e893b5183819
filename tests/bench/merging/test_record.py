"""The committed page says what the committed record holds."""

import json

import pytest

from bench.merging.mixes import MERGED_SKILLS, MERGED_STYLES, SUBTRACTED_SKILLS
from bench.merging.table import kept, page, percent, points, skills_table
from bench.merging.tasks import SKILLS
from house.tree import ROOT

FOLDER = ROOT / "bench/results/merging"
RECORD = json.loads((FOLDER / "record.json").read_text(encoding="utf-8"))


def judgement(mix: str, seed: int, *accuracy: float) -> dict[str, object]:
    return {
        "mix": mix,
        "seed": seed,
        "accuracy": dict(zip(SKILLS, accuracy, strict=True)),
        "perplexity": 1.0,
    }


ROWS = [
    judgement("intents", 1, 0.5, 0.0),
    judgement("intents", 0, 0.8, 0.0),
    judgement("categories", 0, 0.0, 0.5),
    judgement("categories", 1, 0.0, 0.5),
    judgement("average", 0, 0.4, 0.5),
    judgement("average", 1, 0.5, 0.25),
]


def test_what_is_kept_is_compared_seed_by_seed():
    assert kept(ROWS, "average", "intents") == [0.5, 1.0]
    assert kept(ROWS, "average", "categories") == [1.0, 0.5]


def test_nothing_can_be_kept_of_nothing():
    untaught = [judgement("intents", 0, 0.0, 0.0), judgement("average", 0, 0.5, 0.0)]
    assert percent(kept(untaught, "average", "intents")) == "-"


def test_figures_are_means_with_their_spread():
    assert percent([0.5]) == "50.0 %"
    assert percent([0.4, 0.5, 0.6]) == "50.0 ± 10.0 %"
    assert points([-0.1, -0.3]) == "-20.0 ± 14.1"
    last = skills_table(ROWS, {"average": MERGED_SKILLS["average"]}).splitlines()[-1]
    shares = "45.0 ± 7.1 % | 75.0 ± 35.4 % | 37.5 ± 17.7 % | 75.0 ± 35.4 %"
    assert last == f"| average | {shares} | 0.00 ± 0.00 |"


def test_the_page_is_made_of_the_record():
    assert (FOLDER / "README.md").read_text(encoding="utf-8") == page(RECORD)


@pytest.mark.parametrize(
    "kind, mixes",
    [("skills", MERGED_SKILLS | SUBTRACTED_SKILLS), ("styles", MERGED_STYLES)],
)
def test_every_mix_is_judged_with_three_seeds(kind: str, mixes: dict[str, object]):
    judged = [(row["mix"], row["seed"]) for row in RECORD[kind]]
    wanted = {(key, seed) for key in mixes for seed in (0, 1, 2) if key != "base"} | {("base", 0)}
    assert sorted(judged) == sorted(wanted)


def test_both_adapters_learned_their_task():
    for task in SKILLS:
        alone = [row["accuracy"][task] for row in RECORD["skills"] if row["mix"] == task]
        assert min(alone) > 2 * RECORD["majority"][task]
