"""Who does the jobs of a bench, in which order, and the CSV file of their rows.

The file is written anew, whole, after each job: a run that was killed goes on with the jobs that are missing.
"""

from __future__ import annotations

import csv
import importlib.util
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import Field, asdict, fields
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from vqrf.files import read_file, write_atomically


class Keyed(Protocol):
    """A job, or its row; both have the same key."""

    @property
    def key(self) -> tuple[Any, ...]: ...


class Line(Keyed, Protocol):
    """A row: a dataclass of texts, whole and real numbers."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


AnyJob = TypeVar("AnyJob", bound=Keyed)

AnyRow = TypeVar("AnyRow", bound=Line)


MAX_BYTES = 1 << 28
"""Of a CSV file: a million rows."""

MAX_RETRIES = 10
"""Of a job whose machine died: on machines that anybody may take away, that happens."""

Runner = Callable[[Sequence[Any], Callable[[Any], Any]], Iterable[Any]]
"""Does jobs and gives their rows in the order in which they end."""


def run_in_turn(jobs: Sequence[AnyJob], work: Callable[[AnyJob], AnyRow]) -> Iterator[AnyRow]:
    """One job after the other, in this process."""
    return map(work, jobs)


def run_on_ray(jobs: Sequence[AnyJob], work: Callable[[AnyJob], AnyRow], address: str | None = None) -> Iterator[AnyRow]:
    """On a Ray cluster; a job takes one CPU, and the `memory` in bytes that it says, where it says some.

    A job whose machine died is done again, on another one.

    Args:
      address: of the cluster; None for the one that the environment names, or else one of this machine.

    Raises:
      ModuleNotFoundError: Ray is not installed.
      ConnectionError: there is no cluster at the address.
    """
    import ray

    is_mine = not ray.is_initialized()
    if is_mine:
        ray.init(address, include_dashboard=None if address else False, log_to_driver=False)
    try:
        task: Any = ray.remote(lambda job: work(job))  # Ray takes functions, and not what is only called like one
        # Of a job that asks for more than any machine has, Ray would wait for one that has it, without a word.
        list_nodes: Any = ray.nodes
        most = max((int(node["Resources"].get("memory", 0)) for node in list_nodes() if node["Alive"]), default=0)
        demands = [{"memory": memory} if (memory := min(getattr(job, "memory", 0), most)) else {} for job in jobs]
        waiting = [
            task.options(max_retries=MAX_RETRIES, **demand).remote(job) for job, demand in zip(jobs, demands, strict=True)
        ]
        while waiting:
            ready, waiting = ray.wait(waiting)
            yield from ray.get(ready)
    finally:
        if is_mine:
            ray.shutdown()


def choose_runner() -> Runner:
    """Ray where it is installed."""
    return run_on_ray if importlib.util.find_spec("ray") else run_in_turn


def run_jobs(
    jobs: Sequence[AnyJob],
    path: Path,
    kind: type[AnyRow],
    work: Callable[[AnyJob], AnyRow],
    runner: Runner,
    *,
    on_row: Callable[[AnyRow], None] = lambda row: None,
) -> list[AnyRow]:
    """The rows of all jobs, of which those that are in the file already are not done again.

    Args:
      kind: what the file has rows of.
      path: the CSV file. Rows in it that belong to none of the jobs stay there and are not returned.
      on_row: called with every row that is new.

    Raises:
      ValueError: the file is there and holds something else.
    """
    rows = {row.key: row for row in load_rows(path, kind)} if path.exists() else {}
    for row in runner([job for job in jobs if job.key not in rows], work):
        rows[row.key] = row
        save_rows(path, kind, rows.values())
        on_row(row)
    return [rows[job.key] for job in jobs]


def save_rows(path: Path, kind: type[AnyRow], rows: Iterable[AnyRow]) -> None:
    """Write the CSV file, whole or not at all, in the order of the keys."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [column.name for column in fields(kind)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in sorted(rows, key=lambda row: row.key))
    write_atomically(path, text.getvalue().encode())


def load_rows(path: Path, kind: type[AnyRow]) -> list[AnyRow]:
    """Read what `save_rows` wrote.

    Raises:
      ValueError: a line is none of its rows.
    """
    columns = fields(kind)
    try:
        lines = list(csv.reader(io.StringIO(read_file(path, MAX_BYTES).decode())))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: is no CSV in UTF-8: {error}") from None
    if not lines or lines[0] != [column.name for column in columns]:
        raise ValueError(f"{path}: line 1 is not {','.join(column.name for column in columns)}")
    parse: dict[Any, Callable[[str], Any]] = {"str": str, "int": int, "float": float}
    rows = []
    for number, line in enumerate(lines[1:], start=2):
        try:
            rows.append(kind(*(parse[column.type](text) for column, text in zip(columns, line, strict=True))))
        except ValueError:
            raise ValueError(f"{path}: line {number} is no row: {','.join(line)}") from None
    return rows
