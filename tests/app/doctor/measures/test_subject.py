import json
import shutil
from pathlib import Path

import pytest

from qlora.doctor.measures import MEASURES, measure_all
from qlora.doctor.samples import Budget, batches, sample
from qlora.doctor.subject import Subject
from qlora_kernels.errors import InputError


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="should be a run folder of `qlora train`, has no"):
        Subject.open(tmp_path)


def test_a_run_without_an_adapter_is_refused(run, tmp_path):
    shutil.copy(run() / "settings.yaml", tmp_path)
    with pytest.raises(InputError, match="should hold an adapter, holds none"):
        Subject.open(tmp_path)


def test_methods_without_adapters_are_refused(run, tmp_path):
    text = (run() / "settings.yaml").read_text().replace("method: lora", "method: prompt")
    (tmp_path / "settings.yaml").write_text(text)
    with pytest.raises(InputError, match="should have method lora to be measured, had prompt"):
        Subject.open(tmp_path)


def test_lost_data_fails_only_what_needs_it(run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run(), folder)
    text = (folder / "settings.yaml").read_text()
    (folder / "settings.yaml").write_text(text.replace("sonnets.txt", "lost.txt"))
    facts, failures = measure_all(Subject.open(folder))
    assert {"effective_rank", "unchanged_parameters"} <= {fact.name for fact in facts}
    failed = next(line for line in failures if line.startswith("training against validation"))
    assert "could not be measured" in failed and "lost.txt" in failed


def test_progress_tells_what_is_measured(subject):
    told = []
    measure_all(subject, lambda *now: told.append(now))
    total = len(MEASURES)
    assert [done for done, _, _ in told] == list(range(total + 1))
    assert [what for _, _, what in told][:-1] == list(MEASURES)


def test_samples_are_drawn_by_seed_and_keep_to_the_budget(subject):
    every = subject.every_example("training")
    for seed in (0, 1):
        some = sample(every, Budget(300, seed))
        assert some == sample(every, Budget(300, seed))
        assert 250 < sum(map(len, some)) <= 300
    assert sample(every, Budget(300, 0)) != sample(every, Budget(300, 1))
    assert len(sample(every, Budget(1))) == 1
    assert sample(every, Budget(10**9)) == every


def test_batches_hold_every_example_once(subject):
    every = subject.every_example("training")
    found = list(batches(every, tokens=100))
    assert sorted(index for batch in found for index in batch) == list(range(len(every)))
    assert all(len(b) * max(len(every[i]) for i in b) <= 100 for b in found)


def test_budget_falls_with_the_model():
    assert Budget.for_model(10**6).tokens == 16_384
    assert 3_000 < Budget.for_model(135 * 10**6).tokens < 4_000
    assert Budget.for_model(7 * 10**9).tokens == 2_048


def test_data_that_has_changed_since_is_refused(run, tmp_path):
    data = tmp_path / "data.txt"
    text = (Path(__file__).parents[3] / "fixtures" / "sonnets.txt").read_text()
    data.write_text(text)
    folder = run(data=data, steps=2)
    manifest = next(folder.glob("checkpoints/*/checkpoint.json"))
    values = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**values, "state": {}}))  # as another version might write it
    assert Subject.open(folder).examples("training")
    data.write_text(text.replace("eyes", "ears"))
    with pytest.raises(InputError, match="should hold the training examples that the run read"):
        Subject.open(folder).examples("training")
