"""Verbs in processes of their own, each with a bound on memory and computing: how they ended, what they said, what they took.

The processes are forked from one that has imported what all verbs need, and so begin at once.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType

MOST_SECONDS, MOST_BYTES = 20, 2 << 30
"""Of what is refused, or read: bars of the project. The seconds are of computing, however busy the machine is."""

ADDRESSES = 4 * MOST_BYTES
"""Bytes of addresses: a process that asks for more is told that there is no memory. Libraries ask for some and use few."""


@dataclass(frozen=True)
class Ended:
    """How a verb ended; `code` is negative where a signal ended it."""

    code: int
    out: str
    err: str
    peak_bytes: int


class Apart:
    """Where verbs are run; a context that ends with the process that they are forked from."""

    def __enter__(self) -> Apart:
        self.work = TemporaryDirectory()
        roots = os.pathsep.join(path for path in sys.path if path)
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": roots, "OMP_NUM_THREADS": "1"},
        )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()
        self.work.cleanup()

    def run(self, *words: object, n_bytes: int = MOST_BYTES) -> Ended:
        """A verb, with `--max-memory` of `n_bytes` if it is not said."""
        assert self.process.stdin is not None and self.process.stdout is not None
        limit = [] if "--max-memory" in words or not words else ["--max-memory", str(n_bytes)]
        asked = [str(Path(self.work.name) / "out"), str(Path(self.work.name) / "err"), *map(str, words), *limit]
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        code, peak_bytes = json.loads(self.process.stdout.readline())
        out, err = (Path(path).read_text(errors="backslashreplace") for path in asked[:2])
        return Ended(code, out, err, peak_bytes)


def serve() -> None:
    """Run what standard input asks for, a line each."""
    import importlib

    from vqrf.cli.main import main

    for name in ("vqrf._native", "vqrf.interop", "PIL.Image"):
        try:
            importlib.import_module(name)
        except ModuleNotFoundError:  # without the compiled core everything works, more slowly
            continue
    for line in sys.stdin:
        out, err, *words = json.loads(line)
        if (child := os.fork()) == 0:
            code = 1
            try:
                for path, number in ((out, 1), (err, 2)):
                    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
                sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # noqa: SIM115
                resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
                resource.setrlimit(resource.RLIMIT_CPU, (MOST_SECONDS, MOST_SECONDS))
                main(words)
                code = 0
            except SystemExit as end:
                code = int(end.code or 0)
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        _, status, used = os.wait4(child, 0)
        print(json.dumps([os.waitstatus_to_exitcode(status), used.ru_maxrss << 10]), flush=True)


if __name__ == "__main__":
    serve()
