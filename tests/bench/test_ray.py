"""Jobs on a Ray cluster of three nodes, of which one is killed in the middle: all rows, and none twice."""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from vqrf.bench.runners import load_rows, run_jobs, run_on_ray

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # of Ray's own
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra `ray` is not installed"),
]

N_JOBS, N_NODES, SECONDS = 24, 3, 1.0


@dataclass(frozen=True)
class Sleep:
    number: int
    memory: int = 1 << 60
    """More than any machine has: it takes a whole one."""

    @property
    def key(self) -> tuple[int]:
        return (self.number,)


@dataclass(frozen=True)
class Slept:
    number: int
    begun: float

    @property
    def key(self) -> tuple[int]:
        return (self.number,)


def test_a_node_that_dies_costs_its_jobs_another_go_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *sys.path]))  # of the nodes
    log = tmp_path / "log"

    def work(job: Sleep) -> Slept:
        begun = time.time()
        time.sleep(SECONDS)
        with log.open("a") as file:
            file.write(f"{job.number}\n")
        return Slept(job.number, begun)

    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(N_NODES - 1)]
    cluster.wait_for_nodes()
    seen: list[Any] = []

    def on_row(row: Slept) -> None:
        seen.append(row.number)
        if len(seen) == N_JOBS // 3:
            cluster.remove_node(nodes[0], allow_graceful=False)

    try:
        jobs = [Sleep(number) for number in range(N_JOBS)]
        runner = partial(run_on_ray, address=cluster.address)
        rows = run_jobs(jobs, tmp_path / "rows.csv", Slept, work, runner, on_row=on_row)
    finally:
        cluster.shutdown()
    assert [row.number for row in rows] == list(range(N_JOBS))
    assert sorted(seen) == list(range(N_JOBS)), "no row twice"
    assert sorted(row.number for row in load_rows(tmp_path / "rows.csv", Slept)) == list(range(N_JOBS))
    done = Counter(int(line) for line in log.read_text().split())
    assert set(done) == set(range(N_JOBS)) and sum(done.values()) <= N_JOBS + 2, "what was lost was at most what one node did"
