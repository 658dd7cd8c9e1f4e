"""The command line as a process: help without weight, one clear line for every mistake, exit codes."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.command_line import ROOT, run, run_anew


def one_line(output: str) -> str:
    [line] = output.strip().splitlines()
    return line


def test_the_version_is_told() -> None:
    for program in (run, run_anew):
        assert one_line(program("--version").stdout).startswith("transom ")


@pytest.mark.parametrize(
    "arguments", [(), ("serve",), ("run",), ("convert",), ("models",), ("check",), ("cache", "stats")]
)
def test_help_imports_neither_numpy_nor_the_engine(arguments: Sequence[str]) -> None:
    code = (
        "import sys\n"
        "from transom.cli.app import app\n"
        f"app({[*arguments, '--help']!r}, standalone_mode=False)\n"
        "heavy = {'numpy', 'fastapi', 'tokenizers', 'transom.engine', 'transom.kernels'} & sys.modules.keys()\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=30, cwd=ROOT)


def test_both_spellings_of_a_flag_are_in_the_help() -> None:
    shown = run("serve", "--help", COLUMNS="200").stdout
    spellings = "--max-model-len --ctx-size --max-num-seqs --parallel --kv-cache-dtype -ctk -np -c --alias --threads"
    for spelling in spellings.split():
        assert spelling in shown


@pytest.mark.parametrize(
    ("arguments", "reason", "code"),
    [
        (["serve", "/no/such/directory"], "no such directory", 2),
        (["serve", "org/name"], "transom pull org/name", 2),
        (["serve", "--config", "tests"], "is a directory", 2),
        (["serve", "--config", "transom/models_builtin/tolstoy/config.json"], "looks like a model's config.json", 2),
        (["list", "--config", "/no/such/file.json"], "No such file", 2),
        (["serve", "--config", "README.md"], "not valid JSON", 2),
        (["serve", "--config", "/no/such/file.json"], "No such file", 2),
        (["serve", "tolstoy", "--host", "0.0.0.0"], "API key", 2),
        (["serve", "tests"], "config.json", 1),
        (["serve", "tolstoy", "--port", "0", "-c", "99999"], "tolstoy is not served: --max-model-len 99999: may", 1),
        (["serve", "tolstoy", "--port", "0", "--kv-cache-ram-mb", "4", "--max-ram-mb", "5"], "--max-ram-mb 5: ", 1),
        (["run", "nothing", "x"], "neither a directory, nor a GGUF file, nor a bundled model", 2),
        (["run", "tests", "x"], "config.json", 2),
        (["run", "tolstoy", "x", "--max-tokens", "9000"], "maximum context length is 8192", 1),
        (["run", "tolstoy", "x", "--system", "y"], "chat template", 2),
        (["models", "--config", "/no/such/file.json"], "No such file", 2),
        (["serve", "tolstoy", "--max-ssd-mb", "64"], "--max-ssd-mb 64 needs --ssd-path", 2),
        (["serve", "tolstoy", "--ssd-path", "cold"], "--ssd-path cold needs --max-ssd-mb", 2),
        (["run", "tolstoy", "x", "--ssd-path", "cold"], "--ssd-path cold needs --max-ssd-mb", 2),
        (["serve", "tolstoy", "--port", "0", "--hot-tokens", "3"], "--hot-tokens 3: must be at least one block", 1),
        (
            ["serve", "tolstoy", "--port", "0", "--window-size", "9000"],
            "--window-size 9000: must be at most the context window",
            1,
        ),
        (["serve", "tolstoy", "--cache-strategy", "keep_first", "--window-size", "9"], "keep_first 256 must be", 2),
        (["cache", "purge", "tolstoy"], "no cold tier of a model tolstoy", 2),
        (["cache", "verify", "--ssd-path", "/no/such"], "/no/such is not a directory", 2),
        (["cache", "stats", "--url", "nowhere"], "not the address of a server", 2),
    ],
    ids=range(25),
)
def test_a_mistake_is_one_line_on_standard_error(arguments: list[str], reason: str, code: int) -> None:
    result = run(*arguments)
    assert result.returncode == code, result.stderr
    line = one_line(result.stderr)
    assert line.startswith("transom: ")
    assert reason in line


def test_a_mistake_is_the_same_line_of_a_process_that_begins_from_nothing() -> None:
    arguments = ["serve", "tolstoy", "--host", "0.0.0.0"]
    anew, forked = run_anew(*arguments), run(*arguments)
    assert (anew.returncode, anew.stdout, anew.stderr) == (forked.returncode, forked.stdout, forked.stderr)


def test_a_port_that_is_taken_is_said_before_anything_is_loaded() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = run("serve", "--port", str(port))
    assert result.returncode == 2
    told = one_line(result.stderr)
    assert told.startswith(f"transom: cannot listen on 127.0.0.1 port {port}: Address already in use; choose another")
    assert "--port N" in told
    assert result.stdout == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["serve", "--port", "70000"],
        ["serve", "-ctk", "q3"],
        ["nonsense"],
        ["run"],
        ["serve", "--ssd-path", ""],
        ["cache", "purge", "--ssd-path", ""],
    ],
)
def test_a_flag_that_cannot_be_read_is_a_usage_error(arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr


def test_a_directory_of_cold_tiers_may_begin_with_the_home_directory() -> None:
    result = run("serve", "tolstoy", "--max-ssd-mb", "8", "--ssd-path=~/cold", "--print-config", HOME="/home/reader")
    [entry] = json.loads(result.stdout)["registry"]["models"]
    assert entry["tier_config"]["ssd_path"] == "/home/reader/cold"


def test_settings_are_printed_with_their_origins_and_without_keys() -> None:
    arguments = ["serve", "tolstoy", "-np", "4", "--api-key", "s3cret", "--print-config"]
    result = run(*arguments, TRANSOM_PORT="1234", TRANSOM_MAX_MODEL_LEN="2048", TRANSOM_MAX_NUM_SEQS="9")
    shown = json.loads(result.stdout)
    assert shown["registry"]["server"]["port"] == 1234
    assert shown["registry"]["models"][0]["max_position_embeddings"] == 2048
    assert shown["flags"]["port"] == {"value": 1234, "origin": "environment"}
    assert shown["flags"]["max_num_seqs"] == {"value": 4, "origin": "commandline"}
    assert shown["flags"]["host"]["origin"] == "default"
    assert "s3cret" not in result.stdout


def test_the_flag_wins_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    models = [{"id": "m", "path": str(ROOT / "transom/models_builtin/tolstoy")}]
    file.write_text(json.dumps({"server": {"port": 1111}, "models": models}))
    arguments = ["serve", "--config", str(file), "--print-config"]

    def port(*more: str, **environment: str) -> int:
        number: int = json.loads(run(*arguments, *more, **environment).stdout)["registry"]["server"]["port"]
        return number

    assert port() == 1111
    assert port(TRANSOM_PORT="2222") == 2222
    assert port("--port", "3333", TRANSOM_PORT="2222") == 3333


def test_every_problem_of_a_registry_file_is_a_line_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"models": [{"id": "UPPER", "path": "x", "lod": 1}]}))
    result = run("serve", "--config", str(file))
    lines = result.stderr.splitlines()
    assert result.returncode == 2
    assert len(lines) == 2
    assert all(line.startswith(f"transom: {file}: models[0].") for line in lines)


def test_the_spellings_of_other_servers_for_the_default_are_accepted() -> None:
    shown = json.loads(run("serve", "tolstoy", "-c", "0", "-ctk", "auto", "--print-config").stdout)
    assert shown["registry"]["models"][0]["max_position_embeddings"] is None
    assert shown["registry"]["models"][0]["tier_config"]["kv_dtype"] == "f16"


def test_models_are_listed_for_people_and_for_programs() -> None:
    listed = json.loads(run("models", "--json").stdout)
    assert [row["id"] for row in listed] == ["tolstoy", "tolstoy-window", "recall"]
    assert listed[0]["context_window"] == 8192
    assert listed[1]["attention_window"] == 1024
    assert listed[0]["kv_bytes_per_token"] == 2560
    table = run("models").stdout
    assert "2.5 KiB (f16)" in table
    assert "1024 tokens" in table
    assert all(row["path"] in table for row in listed)


def test_a_text_is_completed_from_an_argument_or_a_pipe_alike() -> None:
    arguments = ["run", "tolstoy", "--temp", "0", "-n", "12", "--threads", "1"]
    argued = run(*arguments[:2], "Prince Andrew", *arguments[2:])
    piped = run(*arguments, text="Prince Andrew")
    assert argued.returncode == piped.returncode == 0, argued.stderr
    assert argued.stdout == piped.stdout
    assert len(argued.stdout.split()) > 5
    assert argued.stderr == ""


def test_what_is_piped_stands_before_the_prompt_without_its_last_newline() -> None:
    arguments = ["--temp", "0", "-n", "8", "--threads", "1"]
    whole = run("run", "tolstoy", "Prince Andrew\n\nNatasha", *arguments).stdout
    assert run("run", "tolstoy", "Natasha", *arguments, text="Prince Andrew\n").stdout == whole
    assert run("run", "tolstoy", "-", *arguments, text="Prince Andrew\n\nNatasha\n").stdout == whole


def test_a_limit_that_nobody_asked_for_is_said() -> None:
    result = run("run", "tolstoy", "", "--temp", "0", "--threads", "1")
    assert result.returncode == 0
    assert "512 tokens" in one_line(result.stderr)
    assert len(result.stdout.split()) > 50


def test_a_reader_that_goes_away_ends_the_program_without_a_word() -> None:
    command = f"{sys.executable} -m transom run tolstoy x -t 1 -n 2000 | head -c 20"
    script = ["bash", "-c", f"{command}; code=${{PIPESTATUS[0]}}; echo; echo $code"]
    result = subprocess.run(script, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert result.stderr == ""
    assert result.stdout.splitlines()[-1] == "141"


def test_an_interrupt_while_importing_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("raise KeyboardInterrupt\n")
    result = run_anew("--version", PYTHONPATH=str(tmp_path))
    assert (result.returncode, result.stderr) == (130, "")
