"""`qlora merge` from folders to a folder that stock peft and `load_adapter` read."""

import json
import math
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import peft
import pytest
import torch
from PIL import Image

import qlora_kernels as qk
from app.merge.material import adapter, difference, turned
from qlora.cli import main
from qlora.merge import MergeSpec, merge_folders
from qlora.merge.adapters import short_names
from qlora_kernels.formats.adapter_folder import read_adapter_folder, write_adapter_folder


@pytest.fixture
def places(tmp_path) -> Path:
    for name, seed in (("a", 1), ("b", 2)):
        write_adapter_folder(adapter(seed), tmp_path / name / "adapter")
    return tmp_path


def words(places: Path, *more: str) -> list[str]:
    folders = [str(places / name / "adapter") for name in "ab"]
    return ["merge", *folders, "-o", str(places / "out"), *more]


def test_the_screen_and_the_folder(places, capsys):
    assert main(words(places, "--method", "ties", "--rank", "4", "--weights", "1,0.5")) == 0
    out = capsys.readouterr().out
    assert "ties, weights 1, 0.5, density 0.2, trim_scope model, rank 4" in out
    for word in ("present", "interference", "minority", "q_proj", "up_proj", "all", "written to"):
        assert word in out
    with Image.open(places / "out" / "heat_map.png") as picture:
        assert min(picture.size) > 400
    report = json.loads((places / "out" / "report.json").read_text())
    assert report["adapters"] == ["a", "b"]
    assert report["spec"]["lambda"] == 1.0
    assert {layer["rank"] for layer in report["layers"]} == {4}
    assert set(read_adapter_folder(places / "out").layers) == set(adapter(1).layers)


def test_json_is_the_report(places, capsys):
    assert main(words(places, "--json")) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((places / "out" / "report.json").read_text())


def test_settings_come_from_a_file_too(places, capsys):
    folders = "".join(f"  - {places / name / 'adapter'}\n" for name in "ab")
    config = places / "merge.yaml"
    config.write_text(
        f"adapters:\n{folders}output: {places / 'out'}\nmethod: task-arithmetic\n"
        "weights: [2, -0.5]\nlambda: 0.25\nrank: energy:0.9\n"
    )
    assert main(["merge", "--config", str(config), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["weights"] == [2.0, -0.5]
    assert report["spec"]["lambda"] == 0.25
    assert 0.9 <= report["overall"]["energy"] < 1.0


def test_a_large_result_is_noted(places, capsys):
    assert main(words(places, "--method", "dare")) == 0
    assert "--rank 16 or energy:0.99 makes it small" in capsys.readouterr().out


def test_names_are_what_tells_folders_apart():
    assert short_names([Path("runs/a/adapter"), Path("runs/b/adapter")]) == ["a", "b"]
    assert short_names([Path("x/a/1"), Path("y/a/2")]) == ["1", "2"]
    assert short_names([Path("x/a"), Path("y/a"), Path("y/b")]) == ["x/a", "y/a", "y/b"]
    assert short_names([Path("x/a"), Path("x/a")]) == ["a", "a (2)"]


def test_the_numbers_of_the_report():
    """Definitions of LayerReport, on adapters where they are known."""
    folder = adapter(1)
    _, report = merge_folders([folder, turned(folder)], ["a", "b"], MergeSpec("task-arithmetic"))
    overall = report.overall
    assert math.isclose(overall["cosine"][0][1], 1.0, rel_tol=1e-9)
    assert math.isclose(overall["interference"], -1.0, rel_tol=1e-9)  # they double each other
    assert math.isclose(overall["present"][0], 2.0, rel_tol=1e-6)
    assert overall["sign_conflict"] == overall["minority_mass"] == 0.0
    spec = MergeSpec("task-arithmetic", weights=(1.0, -1.0))
    _, report = merge_folders([folder, folder], ["a", "b"], spec)
    assert math.isclose(report.overall["interference"], 1.0)
    assert report.overall["sign_conflict"] == 1.0
    assert math.isclose(report.overall["minority_mass"], 0.5)


def test_the_report_is_in_the_given_order():
    folders = [adapter(seed, scaling=1.0 + seed) for seed in range(3)]
    for order in ((0, 1, 2), (2, 0, 1)):
        chosen = [folders[place] for place in order]
        spec = MergeSpec("task-arithmetic", weights=tuple(1.0 + place for place in order))
        _, report = merge_folders(chosen, [str(place) for place in order], spec)
        assert report.weights == spec.weights
        norms = report.overall["norms"]
        rising = sorted(range(3), key=order.__getitem__)
        assert all(norms[i] < norms[j] for i, j in pairwise(rising))


@pytest.fixture
def trained(tiny, tmp_path) -> list[Path]:
    """Two adapters of the tiny Llama, on different layers and of different ranks."""
    folders = []
    for number, (rank, targets) in enumerate([(2, ["q_proj", "down_proj"]), (3, ["q_proj"])]):
        folders.append(tmp_path / f"run{number}" / "adapter")
        config = peft.LoraConfig(r=rank, lora_alpha=4, target_modules=targets)
        torch.manual_seed(number)
        fresh = peft.get_peft_model(load(tiny), config)
        for name, parameter in fresh.named_parameters():
            if "lora_B" in name:
                parameter.data.normal_(std=0.5)
        fresh.save_pretrained(folders[-1])
    return folders


def load(tiny):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32).eval()


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft asks for it
def test_peft_and_load_adapter_read_it_and_the_matrix_is_measured(tiny, trained, tmp_path, capsys):
    tasks = []
    for task, answer in (("aye", "Aye"), ("nay", "Nay")):
        path = tmp_path / f"{task}.jsonl"
        path.write_text(f'{{"prompt": "Is it?", "completion": "{answer}"}}\n' * 2)
        tasks.append(f"{task}={path}")
    out = tmp_path / "out"
    command = ["merge", *map(str, trained), "-o", str(out), "--method", "task-arithmetic"]
    command += ["--weights", "0.5,-2", "--model", str(tiny), "--format", "none"]
    assert main([*command, "--eval-data", tasks[0], "--eval-data", tasks[1]]) == 0
    screen = capsys.readouterr().out
    matrix = json.loads((out / "report.json").read_text())["evaluation"]
    assert list(matrix) == ["base", "run0", "run1", "merged"]
    losses = [matrix[who][task]["loss"] for who in matrix for task in ("aye", "nay")]
    assert len(set(losses)) == 8
    assert all(f"{loss:.4f}" in screen for loss in losses)

    tokens = torch.arange(12).reshape(1, 12)
    by_peft = peft.PeftModel.from_pretrained(load(tiny), out)
    ours = load(tiny)
    qk.prepare_model(ours, qk.QLoRAConfig(format="none", targets=()))
    qk.load_adapter(ours, out)
    by_weights = load(tiny)
    for weight, folder in zip((0.5, -2.0), trained, strict=True):
        for name, f in read_adapter_folder(folder).layers.items():
            by_weights.get_submodule(name).weight.data += weight * f.scaling * f.b @ f.a
    with torch.no_grad():
        wanted = by_weights(tokens).logits
        for found in (by_peft(tokens).logits, ours(tokens).logits):
            assert difference(found, wanted) <= 1e-5


def test_a_plain_installation_merges(places, capsys, monkeypatch):
    """Without rich and matplotlib: no picture, and the report says why."""
    for name in ("rich", "rich.progress", "matplotlib", "matplotlib.axes", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "qlora.merge.picture", raising=False)
    assert main(words(places)) == 0
    assert "there is no heat_map.png" in capsys.readouterr().out
    assert not (places / "out" / "heat_map.png").exists()
    assert "heat_map.png" in json.loads((places / "out" / "report.json").read_text())["notes"][-1]


@pytest.mark.parametrize(
    ("second", "written"),
    [(["up_proj", "q_proj"], ["q_proj", "up_proj"]), (["q_proj"], sorted(adapter(1).layers))],
    ids=["same in another order", "others"],
)
def test_target_modules_are_those_that_all_share(second, written, tmp_path):
    folders = []
    for number, targets in enumerate((["q_proj", "up_proj"], second)):
        folder = adapter(number)
        config = replace(folder.config, target_modules=targets)
        folders.append(replace(folder, config=config))
    merged, _ = merge_folders(folders, ["a", "b"], MergeSpec())
    write_adapter_folder(merged, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["target_modules"] == written
