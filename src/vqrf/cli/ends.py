"""How a verb ends: whatever goes wrong, in one line on the error stream and an exit code.

    0    done
    1    a fault of this program, or nobody takes the output
    2    bad input, or something that cannot be done here: a full disk, too little memory, a package that is missing
    130  stopped by Ctrl-C
    143  stopped by SIGTERM

With `VQRF_DEBUG=1` the traceback stands before the line.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TextIO

from vqrf.cli.terminal import Said, Terminated, UsageError, print_json, printable, take_any_text, tell
from vqrf.codec.container import BitstreamError
from vqrf.data.listing import SceneError
from vqrf.fields.storage import StorageError
from vqrf.memory import OverBudget
from vqrf.rendering.evaluate import MetricError

EXIT_FAULT, EXIT_OUTPUT_CLOSED, EXIT_BAD_INPUT, EXIT_INTERRUPTED, EXIT_TERMINATED = 1, 1, 2, 130, 143
DEBUG = "VQRF_DEBUG"
EXTRAS = {
    "torch": "this needs PyTorch: pip install torch",
    "av": "this needs PyAV: pip install av",
    "pycolmap": "this needs pycolmap: pip install pycolmap",
    "matplotlib": "this needs matplotlib: pip install matplotlib",
    "scipy": "this needs SciPy: pip install scipy",
    "skimage": "this needs scikit-image: pip install scikit-image",
    "huggingface_hub": "this needs huggingface_hub: pip install huggingface_hub",
    "ray": "this needs Ray: pip install ray",
    "fsspec": "this needs fsspec: pip install fsspec",
}
"""What to say where an optional package is missing. It works as it stands, while vqrf itself is in no index."""

NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "bad_alloc")
"""Words of a RuntimeError with which PyTorch says that there is no memory left."""

NO_THREAD = "can't start new thread"
"""Words of a RuntimeError of Python's where the system allows no more of them."""

NO_ORDER = "does not have a deterministic implementation"
"""The same where sums cannot be made in a fixed order."""


class Lost(io.StringIO):
    """What is written where the shell closed a stream (`>&-`)."""


@contextmanager
def ending_in_words(is_json: bool = False) -> Iterator[None]:
    """Run a verb; however it ends, this process says so as the module tells, and ends with the code.

    Where whoever reads the output has had enough of it, as `head` has, the end is without a word.

    Args:
      is_json: whether the error has to be on the output stream too, as JSON.
    """
    fill_closed_streams()
    take_any_text()
    with warnings.catch_warnings(), _taking_sigterm():
        if not os.environ.get(DEBUG):
            warnings.simplefilter("ignore")
        try:
            yield
            sys.stdout.flush()
        except BrokenPipeError:
            _give_up(sys.stdout)
            sys.exit(EXIT_OUTPUT_CLOSED)
        except (Exception, KeyboardInterrupt, Terminated) as error:
            if os.environ.get(DEBUG):
                traceback.print_exc()
            code, reason = explain(error)
            _say_error(code, reason, is_json and not isinstance(error, Said))
            sys.exit(code)
        finally:
            _flush_last()
    if isinstance(sys.stdout, Lost) and sys.stdout.getvalue():
        tell(False, "the output stream is closed: what was printed is lost")
        sys.exit(EXIT_OUTPUT_CLOSED)


def explain(error: BaseException) -> tuple[int, str]:
    """Exit code and reason of anything that a verb may raise."""
    if isinstance(error, UsageError | SceneError | StorageError | BitstreamError | OverBudget | MetricError):
        return EXIT_BAD_INPUT, str(error)
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(w in str(error).lower() for w in NO_MEMORY)):
        if "cuda" in str(error).lower():
            return EXIT_BAD_INPUT, "the card has not enough memory; a smaller preset takes less, and --device cpu the machine's"
        return EXIT_BAD_INPUT, "there is not enough memory; --max-memory refuses in time what takes more"
    if isinstance(error, RuntimeError) and NO_THREAD in str(error):
        return EXIT_BAD_INPUT, "no more threads can be started here; --threads 1 takes the fewest"
    if isinstance(error, RuntimeError) and NO_ORDER in str(error):
        return (
            EXIT_BAD_INPUT,
            "--deterministic: PyTorch has a sum without order on this card; pip install warp-lang brings ours",
        )
    if isinstance(error, OSError):
        named = str(error) if error.filename is None else f"{_name(error.filename) or 'an empty name'}: {error.strerror}"
        return EXIT_BAD_INPUT, named
    if isinstance(error, ModuleNotFoundError) and error.name in EXTRAS:
        return EXIT_BAD_INPUT, EXTRAS[error.name]
    if isinstance(error, KeyboardInterrupt):
        return EXIT_INTERRUPTED, str(error) or "stopped"
    if isinstance(error, Terminated):
        return EXIT_TERMINATED, str(error) or "stopped, as the system asked"
    place = traceback.extract_tb(error.__traceback__)
    where = f" at {Path(place[-1].filename).name}:{place[-1].lineno}" if place else ""
    return EXIT_FAULT, f"a fault of this program: {type(error).__name__}: {error}{where}; {DEBUG}=1 shows more"


def _name(path: str | bytes | int) -> str:
    return os.fsdecode(path) if isinstance(path, str | bytes) else str(path)


def _say_error(code: int, reason: str, is_json: bool) -> None:
    """The line; where the output is to be JSON, the same there. Neither can fail any more."""
    with contextlib.suppress(OSError, ValueError):
        tell(False, reason)
    with contextlib.suppress(OSError, ValueError):
        if is_json:
            print_json({"error": {"reason": printable(reason), "exit_code": code}})


def _flush_last() -> None:
    """Flush what is left, so that Python, as it ends, finds nothing that fails."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            _give_up(stream)


def _give_up(stream: TextIO) -> None:
    """What Python flushes as it ends goes nowhere."""
    with contextlib.suppress(OSError, ValueError):  # a stream without a file, as tests have
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def fill_closed_streams() -> None:
    """Put something in the place of streams that the shell closed, and nothing of ours gets their numbers."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, Lost())
            try:
                os.fstat(number)
            except OSError:
                os.dup2(os.open(os.devnull, os.O_WRONLY), number)


@contextmanager
def _taking_sigterm() -> Iterator[None]:
    """Make SIGTERM an exception, so that what is half-written goes away."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
