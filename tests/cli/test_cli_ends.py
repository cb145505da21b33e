"""However a verb ends, it says so in one line that a terminal can show, and no word is refused without a hint."""

from __future__ import annotations

import builtins
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from test_bitstream import generate
from test_cli import refuses, succeeds, vqrf

from vqrf import __version__
from vqrf.cli import main as cli_main
from vqrf.cli.ends import EXIT_BAD_INPUT, EXIT_FAULT, EXIT_INTERRUPTED, EXIT_TERMINATED, Terminated
from vqrf.cli.main import Info, Verb, Verify
from vqrf.cli.terminal import MAX_LINE, Limits, one_line, printable
from vqrf.cli.words import EXAMPLES, read_words
from vqrf.codec.bitstream import encode
from vqrf.interop.archives import bytes_of_zip

ROOTS = os.pathsep.join(path for path in sys.path if path)
PLAIN = generate.make_field(0, (2, 3, 5), widths=[], n_channels=3)


def run_program(
    *words: object, before: str = "", stdout: int | None = subprocess.PIPE, **environment: str
) -> subprocess.CompletedProcess[bytes]:
    """A verb in a process of its own; `before` is shell that stands before it."""
    program = f"{sys.executable} -m vqrf"
    command = f"{before} exec {program} {' '.join(map(str, words))}"
    variables = {**os.environ, "PYTHONPATH": ROOTS, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(["sh", "-c", command], stdout=stdout, stderr=subprocess.PIPE, env=variables, check=False)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "scene.vqrf"
    path.write_bytes(encode(PLAIN))
    return path


def with_metadata(path: Path, metadata: dict[str, object]) -> Path:
    path.write_bytes(encode(replace(PLAIN, metadata=metadata)))
    return path


# ---------------------------------------------------------------------------------------------------- the guard is total


def every_exception() -> list[BaseException]:
    """One of each kind that Python has, and what libraries raise."""
    kinds = [kind for kind in vars(builtins).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    made: list[BaseException] = []
    for kind in kinds:
        arguments = {"UnicodeDecodeError": ("utf-8", b"\xff", 0, 1, "x"), "UnicodeEncodeError": ("ascii", "\ud800", 0, 1, "x")}
        arguments |= {"UnicodeTranslateError": ("\ud800", 0, 1, "x"), "ExceptionGroup": ("x", [ValueError()])}
        made.append(kind(*arguments.get(kind.__name__, ("with\nlines and \x1b[31m",))))
    return [*made, np.linalg.LinAlgError("x"), json.JSONDecodeError("x", "y", 0), ValueError(b"\xff", "\ud800")]


@pytest.mark.parametrize("error", every_exception(), ids=lambda error: type(error).__name__)
def test_any_exception_of_a_verb_is_one_line_and_a_code(
    error: BaseException, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise error

    monkeypatch.setattr(Info, "run", fail)
    outcome = vqrf("info", file)
    if isinstance(error, BrokenPipeError):
        assert (outcome.code, outcome.err) == (1, "")
        return
    assert outcome.code in (EXIT_FAULT, EXIT_BAD_INPUT) and outcome.out == ""
    assert outcome.err.count("\n") == 1 and outcome.err.startswith("vqrf: ")
    assert outcome.err.rstrip("\n").isprintable()


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), EXIT_INTERRUPTED), (Terminated(), EXIT_TERMINATED)], ids=str)
def test_a_signal_is_one_line_and_its_own_code(
    error: BaseException, code: int, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise error

    monkeypatch.setattr(Info, "run", fail)
    outcome = vqrf("info", file)
    assert outcome.code == code and outcome.err.count("\n") == 1 and "stopped" in outcome.err


@pytest.mark.parametrize("is_debug", [False, True], ids=["as it is", "with VQRF_DEBUG"])
@pytest.mark.parametrize("verb", get_args(Verb), ids=lambda verb: verb.__name__.lower())
def test_no_verb_ends_in_a_traceback_unless_it_is_asked_for(
    verb: type, is_debug: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever a fault lies: in the verb, in what is set up before it, in its limits, or in how its words are read."""

    def fail(*_: object, **__: object) -> None:
        raise TypeError("unheard of\n\x1b[31m")

    monkeypatch.setenv("VQRF_DEBUG", "1" if is_debug else "")
    name = verb.__name__.lower()
    words = shlex.split(EXAMPLES[name][0])
    for room, function in ((verb, "run"), (Limits, "n_bytes"), (cli_main, "read_words"), (cli_main, "set_up")):
        with monkeypatch.context() as patch:
            patch.setattr(cli_main, "set_up", lambda verb: verb)  # which loads PyTorch
            patch.setattr(room, function, fail)
            if function == "set_up" and not hasattr(verb, "common"):
                continue
            outcome = vqrf(name, *words)
        said = [line for line in outcome.err.splitlines() if line.startswith("vqrf: ")]
        assert outcome.code == EXIT_FAULT and len(said) == 1 and "a fault of this program: TypeError: unheard of" in said[0]
        assert said[0].isprintable()
        assert ("Traceback" in outcome.err) == is_debug
        assert is_debug or outcome.err.count("\n") == 1


def test_the_traceback_is_there_for_who_asks(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise TypeError("unheard of")

    monkeypatch.setattr(Info, "run", fail)
    said = vqrf("info", file).err
    assert "a fault of this program: TypeError: unheard of" in said and "VQRF_DEBUG=1" in said and "Traceback" not in said
    monkeypatch.setenv("VQRF_DEBUG", "1")
    assert "Traceback" in vqrf("info", file).err


def test_no_memory_is_one_line(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")):

        def fail(_: object, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(Info, "run", fail)
        refuses("info", file, saying=("not enough memory", "--max-memory"))


def heed_interrupts() -> None:
    """What is started in the background of a script inherits that it ignores Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_sigterm_ends_a_verb_with_its_code_and_one_line(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    words = [sys.executable, "-m", "vqrf", "view", str(pipe.with_name("scene.vqrf")), "--no-open"]
    pipe.with_name("scene.vqrf").write_bytes(encode(PLAIN))
    variables = {**os.environ, "PYTHONPATH": ROOTS}
    for number, code in ((signal.SIGTERM, EXIT_TERMINATED), (signal.SIGINT, 0)):
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with subprocess.Popen(words, env=variables, preexec_fn=heed_interrupts, **pipes) as run:
            assert run.stdout is not None and run.stderr is not None
            assert b"until Ctrl+C" in run.stdout.readline()
            time.sleep(0.2)
            run.send_signal(number)
            said = run.communicate(timeout=20)[1]
            assert run.returncode == code
            assert said.count(b"\n") <= 1 and b"Traceback" not in said


# -------------------------------------------------------------------------------------------------------- closed and full


def test_a_closed_output_is_one_line(file: Path) -> None:
    ended = run_program("info", file, before="exec >&-;", stdout=None)
    assert ended.returncode == 1 and ended.stderr.count(b"\n") == 1 and b"is closed" in ended.stderr
    assert run_program("info", file, before="exec 2>&-;").returncode == 0
    assert run_program("info", file.with_name("gone"), before="exec >&- 2>&-;", stdout=None).returncode == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, which stands for a full disk")
@pytest.mark.parametrize("words", [("info",), ("info", "--json"), ("verify",)], ids=str)
def test_a_full_disk_under_the_output_is_one_line(words: tuple[str, ...], file: Path) -> None:
    ended = run_program(*words, file, before="exec >/dev/full;", stdout=None)
    assert ended.returncode == 2 and ended.stderr.count(b"\n") == 1 and b"No space left" in ended.stderr


def test_little_memory_is_one_line(file: Path) -> None:
    """How little depends on the libraries: whatever is not enough must say so, or end before Python is there."""
    ended = run_program("render", file, "--path", "orbit", "--frames", 1, "--width", 4000, "--height", 4000,
                        "--out", file.with_name("images"), before="ulimit -v 700000;")  # fmt: skip
    assert ended.returncode == 2 and ended.stderr.count(b"\n") == 1, ended


# ------------------------------------------------------------------------------------------------------ text of others


def test_what_a_terminal_would_obey_is_written_out() -> None:
    assert printable("a\x1b]0;title\x07\r\n\u202e\ud800\x85") == r"a\x1b]0;title\x07\r\n\u202e\ud800\x85"
    assert printable("blank, ümlaut, 漢字, \U0001f600") == "blank, ümlaut, 漢字, \U0001f600"
    long = one_line("begin " + "x" * 8_000_000 + " end")
    assert len(long) < MAX_LINE and long.startswith("begin ") and long.endswith(" end")


HOSTILE: dict[str, dict[str, object]] = {
    "markup that is none": {"x": "[/b]", "[/b]": "[link=a"},
    "markup that would be obeyed": {"x": "[blink]loud[/blink] [link=http://example.org]here[/link]"},
    "escapes": {"\x1b[2J": "\x1b]0;title\x07", "y": ["\x9b31m"]},
    "half of a character": {"x": "\ud800"},
    "another direction": {"x": "\u202egpj.exe"},
    "much": {"x": "y" * 100_000},
}


@pytest.mark.parametrize("case", HOSTILE)
def test_metadata_of_others_is_shown_and_never_obeyed(case: str, file: Path) -> None:
    with_metadata(file, HOSTILE[case])
    out = succeeds("info", file).out
    assert all(line.isprintable() and len(line) < 2 * MAX_LINE for line in out.splitlines())
    shown = json.loads(succeeds("info", file, "--json").out)
    assert {key: shown[key] for key in HOSTILE[case]} == HOSTILE[case]
    if case == "markup that would be obeyed":
        assert "[blink]loud[/blink]" in out


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8", "cp1252"])
def test_the_output_may_have_any_encoding(encoding: str, file: Path) -> None:
    with_metadata(file, {"x": "\ud800 漢字 \U0001f600"})
    ended = run_program("info", file, PYTHONIOENCODING=encoding)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert rb"\ud800" in ended.stdout
    assert run_program("info", "--help", PYTHONIOENCODING=encoding).returncode == 0


def test_names_in_a_hostile_archive_do_not_reach_the_terminal_raw(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(bytes_of_zip({"../\x1b]0;pwn\x07/data.pkl": b""}, 0))
    outcome = vqrf("info", path)
    assert outcome.code == 2 and outcome.err.count("\n") == 1 and r"\x1b" in outcome.err and "\x1b" not in outcome.err


def test_a_file_name_that_is_no_text_is_shown_with_escapes(tmp_path: Path) -> None:
    refuses("info", tmp_path / "a\udcff\x1b[31m\n.vqrf", saying=(r"\udcff", r"\x1b[31m"))


# ------------------------------------------------------------------------------------------------------------------ words


def test_the_version_is_said_by_both_ways_in() -> None:
    assert succeeds("--version").out == f"vqrf {__version__}\n"
    assert run_program("--version").stdout == f"vqrf {__version__}\n".encode()


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("traim",), "did you mean train?"),
        (("decompress", "a"), "did you mean convert?"),
        (("proces",), "did you mean process?"),
        (("colmap", "a"), "did you mean process?"),
        (("zzzzzz",), "The verbs are make, batch, process, check, train"),
        (("info", "a", "--jsn"), "did you mean --json?"),
        (("render", "a", "--ouput", "b"), "did you mean --out"),
        (("train", "a", "--zzzz"), "train --help"),
        (("info",), "vqrf info --help"),
        (("train", "a", "--out", "b", "--preset", "nonsense"), "--preset"),
        (("render", "a", "--out", "b", "--frames", "many"), "--frames"),
        (("make", "a", "--out", "b\0.vqrf"), "null character"),
        ((), "--help"),
    ],
    ids=ascii,
)
def test_a_word_that_is_none_is_one_line_that_helps(words: tuple[str, ...], hint: str) -> None:
    refuses(*words, saying=(hint,))


@pytest.mark.parametrize(
    "words",
    [
        ("info", ""),
        ("export", "a.vqrf", ""),
        ("train", "data", "--out", ""),
        ("train", "data", "--out="),
        ("info", "a", "--max-memory", ""),
    ],
)
def test_an_empty_word_is_no_name_of_a_file(words: tuple[str, ...]) -> None:
    """It would be the folder that one is in, as where a shell's variable is not set."""
    refuses(*words, saying=("expected a name or a value, and it is empty",))


def test_stopped_while_the_program_is_read_it_is_one_line(tmp_path: Path) -> None:
    """A module that interrupts stands in the place of one that the command line imports."""
    (tmp_path / "tyro.py").write_text("raise KeyboardInterrupt")
    ended = run_program("info", "x", PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOTS}")
    assert (ended.returncode, ended.stdout, ended.stderr) == (EXIT_INTERRUPTED, b"", b"vqrf: stopped\n")


def test_parts_of_what_torchrun_says_do_not_make_a_worker(file: Path) -> None:
    for wrong in ({}, {"RANK": "x", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}):
        environment = {"TORCHELASTIC_RUN_ID": "1", **wrong}
        ended = run_program("render", file, "--out", "/nowhere/x", "--data", "/nowhere", **environment)
        assert ended.returncode == EXIT_BAD_INPUT and b"/nowhere" in ended.stderr


def test_no_thread_is_one_line(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(Info, "run", fail)
    refuses("info", file, saying=("--threads 1",))


def test_an_error_is_json_where_the_result_would_be(file: Path) -> None:
    file.write_bytes(b"text")
    for words in (("info", file, "--json"), ("eval", file, "--data", file, "--json"), ("info", file, "--jsn", "--json")):
        outcome = vqrf(*words)
        error = json.loads(outcome.out)
        assert outcome.code == error["error"]["exit_code"] == 2 and error["version"] == 1
        assert outcome.err == f"vqrf: {error['error']['reason']}\n"


def test_every_document_says_its_version_and_a_finding_is_one_document(file: Path) -> None:
    for words in (("info", file), ("verify", file)):
        assert json.loads(succeeds(*words, "--json").out)["version"] == 1
    file.write_bytes(file.read_bytes()[:-1])
    outcome = vqrf("verify", file, "--json")
    assert outcome.code == 2 and len(json.loads(outcome.out)["findings"]) == 1


def test_a_fault_of_ours_is_json_too(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise TypeError("x")

    monkeypatch.setattr(Verify, "run", fail)
    assert json.loads(vqrf("verify", file, "--json").out)["error"]["exit_code"] == EXIT_FAULT


@pytest.mark.parametrize("verb", [verb.__name__.lower() for verb in get_args(Verb)])
def test_help_has_examples_that_the_verb_takes_and_flags_in_groups(verb: str) -> None:
    out = succeeds(verb, "--help").out
    examples = out.partition("\nexamples:\n")[2].splitlines()
    assert examples
    for line in examples:
        words = shlex.split(line)
        assert words[0] == "vqrf" and type(read_words(Verb, words[1:], "")).__name__.lower() == verb
    groups = [
        title for title in ("machine options", "checkpoint options", "goal options", "own render options") if title in out
    ]
    assert groups[0] == "machine options" and ("--corners" in out) == ("checkpoint options" in groups)
    assert "--max-memory" in out
