import inspect
import subprocess
import sys
from dataclasses import dataclass

import pytest

from pig_monai.bundle import check_command_line, check_numbers, check_whole, config_files
from pig_monai.cli import as_bool, check_flags, run_command, with_options
from pig_monai.errors import PigError, find_user_error
from tests.conftest import ROOT

PROGRAM = """
from pig_monai.cli import run_command
def command(*, output: str, size: int = 512) -> None:
    "Do it."
    print("ran", output, size)
run_command(command)
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=False)


def test_a_mistyped_flag_stops_before_anything_runs():
    result = run("--output", "x", "--sizes", "64")
    assert result.returncode == 1
    assert "ran" not in result.stdout
    assert result.stderr.strip() == "error: unknown option --sizes; did you mean --size?"


def test_a_missing_flag_is_named():
    result = run("--size=64")
    assert (result.returncode, result.stderr.strip()[:27]) == (1, "error: --output is missing;")


def test_flags_arrive():
    assert run("--output", "x", "--size=64").stdout == "ran x 64\n"
    assert "Do it." in run("--help").stderr + run("--help").stdout


def test_shared_options_become_flags_of_a_command():
    @dataclass(frozen=True)
    class Shared:
        """Shared.

        Args:
            size: side in pixels.
            seed: of the noise.
        """

        size: int = 512
        seed: int = 0

    seen = []

    @with_options(Shared)
    def command(*, output: str, name: str = "n", options: Shared) -> None:
        """Do it.

        Args:
            output: a folder.
            name: its name.
            options: the shared ones.
        """
        seen.append((output, name, options))

    assert list(inspect.signature(command).parameters) == ["output", "name", "size", "seed"]
    assert inspect.signature(command).parameters["size"].default == 512
    assert inspect.getdoc(command).splitlines()[2:] == [
        "Args:",
        "    output: a folder.",
        "    name: its name.",
        "    size: side in pixels.",
        "    seed: of the noise.",
    ]
    run_command(command, ["--output", "x", "--seed=3"])
    assert seen == [("x", "n", Shared(512, 3))]
    with pytest.raises(TypeError):
        command(output="x", sizes=3)


def test_a_wrapped_error_is_found():
    inner = PigError("a is b", "do c")
    try:
        try:
            raise inner
        except PigError as cause:
            raise RuntimeError("MONAI's own words") from cause
    except RuntimeError as outer:
        assert find_user_error(outer) is inner
    assert find_user_error(ValueError("x")) is None
    assert str(PigError("two\nlines", "one")) == "two lines; one"


def test_a_bug_keeps_its_traceback():
    def command() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_command(command, [])


@pytest.mark.parametrize(("value", "wanted"), [(True, True), ("FALSE", False), ("true", True), ("False", False)])
def test_switches_take_words_in_any_case(value, wanted):
    assert as_bool(value, "amp") is wanted


@pytest.mark.parametrize("value", ["", "yes", 1, None])
def test_other_words_are_refused(value):
    with pytest.raises(PigError, match="amp is"):
        as_bool(value, "amp")


def test_config_files_are_read_as_fire_reads_them():
    assert config_files(["run", "--config_file", "['a.yaml','b.yaml']"]) == ["a.yaml", "b.yaml"]
    assert config_files(["run", "--config_file=[a.yaml, b.yaml]"]) == ["a.yaml", "b.yaml"]
    assert config_files(["run", "--config_file", "a.yaml", "--x", "1"]) == ["a.yaml"]
    assert config_files(["pytest"]) == []


def test_runner_ids_are_checked_against_the_config():
    config = str(ROOT / "bundles/pig_dbt/configs/infer_pairs.yaml")
    check_command_line(["run", "--config_file", config, "--sampler#seed", "3", "--num_pairs=4"])
    with pytest.raises(PigError, match="did you mean --num_pairs"):
        check_command_line(["run", "--config_file", config, "--num_pair", "3"])
    with pytest.raises(PigError, match="unknown option --zzz"):
        check_flags(["--zzz"], ["a"], hint="see --help")


@pytest.mark.parametrize("value", [0, -1, "64", 2.5, True, None])
def test_whole_numbers_are_whole(value):
    with pytest.raises(PigError, match=r"batch_size is "):
        check_whole(1, image_size=64, batch_size=value)


@pytest.mark.parametrize("value", ["1e-4", -0.1, float("nan"), None, True])
def test_numbers_are_numbers(value):
    with pytest.raises(PigError, match=r"learning_rate is .*; give a number from 0 on") as refused:
        check_numbers(ema_decay=0, learning_rate=value)
    assert ("YAML needs 1.0e-4" in str(refused.value)) == (value == "1e-4")
