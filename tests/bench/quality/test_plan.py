"""The plan: every run is one that can be made, and every claim names runs of the plan."""

from pathlib import Path

import pytest

from bench.quality.claims import CLAIMS, METRICS
from bench.quality.command import run as run_command
from bench.quality.frontier import MEMBERS
from bench.quality.plan import CONFIGURATIONS, SEEDS, SIZES, TIERS, Run, runs
from qlora.plan.models import MODELS


def test_names_are_unique_and_runs_go_tier_by_tier():
    assert len(CONFIGURATIONS) == sum(map(len, TIERS))
    listed = [one.name for one in runs()]
    assert len(set(listed)) == len(listed) == len(CONFIGURATIONS) * len(SEEDS)
    assert listed[: len(TIERS[0])] == [f"{one.name}-seed-0" for one in TIERS[0]]
    assert listed[len(TIERS[0])] == f"{TIERS[0][0].name}-seed-1"


@pytest.mark.parametrize("name", [n for n, c in CONFIGURATIONS.items() if c.kind == "trained"])
def test_every_configuration_is_a_run_of_the_trainer(name: str):
    one = CONFIGURATIONS[name]
    settings = one.train_settings(Path("model"), Path("data"), Path("out"), seed=3)
    assert settings.seed == 3 and settings.steps == SIZES[one.task]["steps"]
    assert settings.format == one.format or one.format == "nf4"


def test_equal_parameters_are_equal():
    linears = MODELS["smollm2"].block

    def trained(name: str) -> int:
        settings = CONFIGURATIONS[name].train_settings(Path("m"), Path("d"), Path("o"), 0)
        targets = settings.targets
        chosen = [
            one
            for one in linears
            if targets == "all-linear" or one.name.rpartition(".")[2] in targets
        ]
        return sum(settings.rank * (one.n + one.k) for one in chosen)

    whole = trained("qlora")
    assert all(abs(trained(name) / whole - 1) < 0.015 for name in ("qv-r85", "ffn-r26"))


def test_claims_and_frontier_name_configurations():
    for claim in CLAIMS:
        assert {*claim.subject, *claim.rival} <= CONFIGURATIONS.keys(), claim.text
        assert set(claim.metrics) <= METRICS.keys()
    assert MEMBERS.keys() <= CONFIGURATIONS.keys()


def test_a_run_has_a_name():
    assert Run(CONFIGURATIONS["qlora"], 2).name == "qlora-seed-2"
    assert callable(run_command)
