"""A record says where it comes from, also where git or a package is missing."""

import subprocess
from pathlib import Path

import pytest

from qlora import provenance


def test_what_is_not_installed_is_not_listed():
    versions = provenance.versions(("torch", "no-such-package"))
    assert versions.keys() == {"python", "torch"}


def test_a_copy_without_its_repository_is_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("QLORA_COMMIT", "0123456789ab")
    assert provenance.commit() == "0123456789ab"


def test_without_git_the_commit_is_unknown(monkeypatch: pytest.MonkeyPatch):
    def no_git(*arguments: object, **options: object) -> None:
        raise FileNotFoundError("git")

    monkeypatch.delenv("QLORA_COMMIT", raising=False)
    monkeypatch.setattr(subprocess, "run", no_git)
    assert provenance.commit() is None


def test_the_processor_is_named_as_linux_names_it(tmp_path: Path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nmodel name\t: Some CPU 9000\nflags\t: a b\n")
    assert provenance.cpu_model(cpuinfo) == "Some CPU 9000"
    text = "processor\t: 0\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: Some CPU\nflags\t: a b\n"
    cpuinfo.write_text(text + "\n" + text)
    assert provenance.cpu_model(cpuinfo) == "Some CPU (family 25, model 17)"
    assert provenance.cpu_model(tmp_path / "absent") == provenance.platform.machine()


def test_the_record_is_complete():
    record = provenance.provenance(["torch"])
    assert record.keys() == {"commit", "date", "versions", "machine"}
    assert {"cpu", "cores"} <= record["machine"].keys()
