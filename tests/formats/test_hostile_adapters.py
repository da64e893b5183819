"""Folders that lie, break or attack: one line, in no time, and nothing of them is run."""

import contextlib
import json
import pickle
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from formats.adapters import CONFIG_FILE, LAYERS, WEIGHTS_FILE, edit_config, folder
from formats.attacks import ATTACKS
from qlora_kernels.errors import InputError
from qlora_kernels.formats.adapter_folder import (
    AdapterFolder,
    read_adapter_folder,
    write_adapter_folder,
)
from qlora_kernels.formats.adapter_folder.patterns import check_effort, matches

EXPONENTIAL = ("(a+)+$", "(.*a)*(a+)+(.*a)+$x", "(a|a)*b", "((a*)*)*b", ".*.*.*.*.*.*.*.*x")


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    path = tmp_path_factory.mktemp("pristine")
    write_adapter_folder(folder(), path)
    return {file.name: file.read_bytes() for file in path.iterdir()}


def lay(pristine: dict[str, bytes], path: Path) -> None:
    """Good files; without the flush to disk that writing an adapter takes."""
    path.mkdir(exist_ok=True)
    for name, data in pristine.items():
        (path / name).write_bytes(data)


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_refused_in_one_line_at_once(
    pristine: dict[str, bytes], tmp_path: Path, name: str
):
    attack, text = ATTACKS[name]
    lay(pristine, tmp_path)
    attack(tmp_path)
    start = time.process_time()
    with pytest.raises(InputError) as refusal:
        read_adapter_folder(tmp_path)
    assert time.process_time() - start < 1
    message = str(refusal.value)
    assert text in message
    assert "\n" not in message and len(message) < 600


class Canary:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("file", ["adapter_model.bin", WEIGHTS_FILE])
def test_a_pickle_is_never_opened(pristine: dict[str, bytes], tmp_path: Path, file: str):
    lay(pristine, tmp_path / "adapter")
    (tmp_path / "adapter" / WEIGHTS_FILE).unlink()
    canary = tmp_path / "canary"
    (tmp_path / "adapter" / file).write_bytes(pickle.dumps(Canary(canary)))
    with pytest.raises(InputError, match=r"pickle|readable safetensors"):
        read_adapter_folder(tmp_path / "adapter")
    assert not canary.exists()


@pytest.mark.parametrize("base", ["../../../etc/passwd", "/etc/passwd", "a\0b"])
@pytest.mark.parametrize("targets", [EXPONENTIAL[0], "../../x", ["../../x"]])
def test_names_in_the_config_are_told_and_never_followed(
    pristine: dict[str, bytes], tmp_path: Path, base: str, targets: object
):
    lay(pristine, tmp_path)
    edit_config(tmp_path, base_model_name_or_path=base, target_modules=targets)
    read = read_adapter_folder(tmp_path)
    assert (read.config.base_model, read.config.target_modules) == (base, targets)


@pytest.mark.parametrize("pattern", EXPONENTIAL)
def test_a_catastrophic_pattern_takes_no_time(
    pristine: dict[str, bytes], tmp_path: Path, pattern: str
):
    start = time.process_time()
    with contextlib.suppress(InputError):
        assert not matches(pattern, "a" * 400 + "!")
    lay(pristine, tmp_path)
    edit_config(tmp_path, alpha_pattern={pattern: 2}, rank_pattern={pattern: 2})
    assert read_adapter_folder(tmp_path).layers.keys() == set(LAYERS)
    assert time.process_time() - start < 5


@pytest.mark.parametrize("pattern", ["(a|a)" * 150, "a?" * 300, "(a+)+" * 150, "(a|b|ab)*" * 90])
def test_a_long_catastrophic_pattern_is_answered_or_refused(pattern: str):
    start = time.process_time()
    with contextlib.suppress(InputError):
        assert not matches(pattern, "a" * 400 + "!")
    assert time.process_time() - start < 5


def test_many_patterns_for_many_layers_are_refused():
    check_effort(["q_proj"] * 1000, 4000)
    for patterns in (["q_proj"] * 1001, ["(a+)+$"]):
        with pytest.raises(InputError, match="patterns times layers should be at most"):
            check_effort(patterns, 4000)


def test_a_catastrophic_target_is_not_handed_on(pristine: dict[str, bytes], tmp_path: Path):
    lay(pristine, tmp_path)
    edit_config(tmp_path, target_modules="(a+)+$")
    write_adapter_folder(read_adapter_folder(tmp_path), tmp_path / "again")
    fields = json.loads((tmp_path / "again" / CONFIG_FILE).read_text())
    assert fields["target_modules"] == sorted(LAYERS)


def reads_or_refuses(path: Path) -> AdapterFolder | None:
    try:
        return read_adapter_folder(path)
    except InputError as refusal:
        assert "\n" not in str(refusal)
        return None


FUZZ = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)
TEXTS = ["peft_type", "base_model_name_or_path", "bias", "target_modules", "init_lora_weights"]
NUMBERS = ["r", "lora_alpha", "lora_dropout", "use_dora", "use_rslora", "use_qalora", "lora_bias"]
LISTS = ["rank_pattern", "alpha_pattern", "modules_to_save", "trainable_token_indices"]
FIELDS = st.sampled_from([*TEXTS, *NUMBERS, *LISTS])


@FUZZ
@given(changes=st.dictionaries(FIELDS, VALUES, min_size=1, max_size=3))
def test_a_fuzzed_config_is_read_or_refused(
    pristine: dict[str, bytes], tmp_path: Path, changes: dict[str, object]
):
    lay(pristine, tmp_path)
    edit_config(tmp_path, **changes)
    reads_or_refuses(tmp_path)


@FUZZ
@given(at=st.integers(0, 10**6), byte=st.integers(0, 255), cut=st.booleans())
def test_a_fuzzed_file_is_read_or_refused(
    pristine: dict[str, bytes], tmp_path: Path, at: int, byte: int, cut: bool
):
    lay(pristine, tmp_path)
    raw = bytearray((tmp_path / WEIGHTS_FILE).read_bytes())
    at %= int.from_bytes(raw[:8], "little") + 8  # in the header, where lies are told
    if cut:
        del raw[at:]
    raw[at:at] = bytes([byte])
    (tmp_path / WEIGHTS_FILE).write_bytes(raw)
    assert reads_or_refuses(tmp_path) is None, "a byte too many somewhere is always noticed"


@FUZZ
@given(at=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_a_flipped_bit_in_the_header_is_read_or_refused(
    pristine: dict[str, bytes], tmp_path: Path, at: int, bit: int
):
    lay(pristine, tmp_path)
    raw = bytearray((tmp_path / WEIGHTS_FILE).read_bytes())
    raw[at % (int.from_bytes(raw[:8], "little") + 8)] ^= 1 << bit
    (tmp_path / WEIGHTS_FILE).write_bytes(raw)
    reads_or_refuses(tmp_path)
