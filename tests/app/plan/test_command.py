"""`qlora plan` as people and programs meet it."""

import json
import subprocess
import sys

import pytest

from qlora import cli

PLAIN = """
import sys
for name in ("transformers", "matplotlib", "yaml", "rich"):
    sys.modules[name] = None
from qlora import cli
sys.exit(cli.main(["plan", "llama-8b", "--memory", "24GB"]))
"""


def output_of(capsys, *words) -> str:
    assert cli.main(["plan", *map(str, words)]) == 0
    return capsys.readouterr().out


def refusal_of(capsys, *words) -> str:
    assert cli.main(["plan", *map(str, words)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_a_plain_install_is_enough():
    result = subprocess.run([sys.executable, "-c", PLAIN], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    assert "fits 24GB" in result.stdout


def test_a_plan_for_people(capsys, tiny):
    text = output_of(capsys, tiny, "--memory", "64MiB")
    for word in ("codes", "scales", "optimizer", "activations", "total", "with checkpointing"):
        assert f"\n{word} " in text
    assert "longest sequence" in text and "x fewer" in text


def test_what_would_make_it_fit(capsys):
    text = output_of(capsys, "llama-8b", "--memory", "24GB", "--method", "lora", "full")
    assert "lora fits with --gradient-checkpointing" in text
    assert "full does not fit" in text


def test_a_plan_for_programs(capsys, tiny):
    words = (tiny, "--json", "--method", "qlora", "--memory", "1GB")
    record = json.loads(output_of(capsys, *words))
    plan = record["methods"]["qlora"]
    assert plan["total_bytes"] == sum(plan["components"].values())
    assert plan["total_bytes_with_checkpointing"] < plan["total_bytes_without_checkpointing"]
    assert plan["fits"] and plan["limits"]["longest_sequence"] == 512


def test_the_table_and_its_picture(capsys, tmp_path):
    text = output_of(capsys, "--table", "--plot", tmp_path / "memory.png")
    assert "written:" in text
    assert (tmp_path / "memory.png").read_bytes().startswith(b"\x89PNG")
    rows = json.loads(output_of(capsys, "--table", "--json"))["rows"]
    assert [row["method"] for row in rows] == ["full", "lora", "qlora", "dora", "lora+"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["lama-8b"], "did you mean 'llama-8b'?"),
        (["llama-8b", "--method", "qlra"], "did you mean 'qlora'?"),
        (["llama-8b", "--optimizer", "adam-8bit"], "did you mean 'adamw-8bit'?"),
        (["llama-8b", "--targets", "q_prj"], "plan: targets should match a linear layer"),
        (["llama-8b", "--memory", "lots"], "plan: memory should be an amount of memory"),
        (["llama-8b", "--memory", "10%"], "plan: memory should be in bytes, was 10%"),
        (["llama-8b", "--memory", "1GB", "--reserve", "2GB"], "reserve should be less than"),
        (["llama-8b", "--reserve", "2GB"], "plan: reserve should come with --memory"),
        (["llama-8b", "--rank", "0"], "plan: rank should be at least 1, was 0"),
        (["llama-8b", "--optimizer-memory", "1GB"], "should be for a paged optimizer"),
        (["llama-8b", "--plot", "a.png"], "--plot should come with --table"),
        (["llama-8b", "--table"], "--table should come alone"),
        ([], "MODEL (or --table) should be given"),
    ],
)
def test_refusals_are_one_line(capsys, words, expected):
    assert expected in refusal_of(capsys, *words)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", "should be JSON"),
        ("[]", "should hold an object"),
        ('{"model_type": "lama"}', "did you mean 'llama'?"),
        ('{"model_type": "llama", "hidden_size": "big"}', "hidden_size should be a size from 1"),
    ],
)
def test_a_broken_config_is_refused(capsys, tmp_path, text, expected):
    (tmp_path / "config.json").write_text(text)
    assert expected in refusal_of(capsys, tmp_path)
