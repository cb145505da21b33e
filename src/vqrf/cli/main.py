"""Words -> calls. Every verb is a dataclass of its flags and a `run`; what it does is in the other rooms.

Errors that a user can cause end in one line on the error stream and exit code 2; nothing half-written is left.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro
from rich.table import Table
from rich.text import Text

from vqrf import __version__
from vqrf.cli import view as cli_view
from vqrf.cli.batch import Batch
from vqrf.cli.bench import Bench
from vqrf.cli.check import Check
from vqrf.cli.compress import MEGABYTE, Compress, compress_into, expect_scorable, score
from vqrf.cli.convert import AS_THEY_ARE, Convert, ImportFlags, expect_of_checkpoint, facts_of_checkpoint, load_field_of
from vqrf.cli.device import expect_workers, with_device
from vqrf.cli.ends import ending_in_words
from vqrf.cli.hub import Pull, Push
from vqrf.cli.make import Make
from vqrf.cli.meta import Meta, in_short, presented
from vqrf.cli.process import Process
from vqrf.cli.progress import reading_bar
from vqrf.cli.terminal import (
    NO_LIMITS,
    Common,
    CommonFlags,
    LimitFlags,
    Limits,
    Running,
    RunningFlags,
    Said,
    Seeded,
    UsageError,
    expect_counts,
    expect_writable,
    load_compressed,
    named,
    one_line,
    print_json,
    print_whole,
    read_bytes,
    say,
    tell,
)
from vqrf.cli.train import Train, finish_run, train_into
from vqrf.cli.view import Export, Render
from vqrf.cli.words import PROGRAM, read_words
from vqrf.codec.about import About, about_of
from vqrf.codec.bitstream import decode, verify
from vqrf.codec.container import sections
from vqrf.codec.lint import Finding, inspect, refusals
from vqrf.data.builtin import built_in_scene
from vqrf.data.load import load_scene
from vqrf.data.scene import save_scene
from vqrf.fields.field import drawing_fault_of
from vqrf.fields.run import FIELD_FILE, expect_run, load_like, load_run
from vqrf.fields.storage import describe_field
from vqrf.files import write_atomically
from vqrf.interop import is_checkpoint
from vqrf.kernels import has_native
from vqrf.memory import decoding_budget, limited
from vqrf.rendering.evaluate import EQUAL_PSNR, Metric, MetricName, blank_psnr
from vqrf.rendering.page import page_with_scene

MAX_SEED = (1 << 63) - 1
"""The largest that PyTorch's generator takes."""

MAX_THREADS = 1024

NO_CORE = "vqrf: the compiled core is missing: using the slow reference kernels"


@dataclass(frozen=True)
class Eval:
    """Score a .vqrf file, a run folder or a checkpoint against the photos of a dataset: PSNR, SSIM, bytes."""

    scene: tyro.conf.Positional[Path]
    """A .vqrf file, a run folder, or a checkpoint of DirectVoxGO, svox2, TensoRF or official VQRF."""
    data: Path
    """Dataset folder."""
    split: Literal["train", "test"] = "test"
    """Which photos of the dataset to use."""
    every: int = 1
    """Use only every n-th view of the test split."""
    downscale: int = 0
    """Average n x n pixels into one. 0: as in training."""
    metrics: tuple[MetricName, ...] = ()
    """Metrics besides PSNR and SSIM, such as lpips-alex. They need PyTorch, and packages that hold their weights."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print JSON."""
    options: ImportFlags = AS_THEY_ARE
    common: RunningFlags = Running()

    def run(self) -> None:
        expect_counts(self.every, self.downscale)
        metrics = metrics_of(self.metrics)
        field, notes, sizes = load_field_of(self.scene, self.options, self.data, self.split, quiet=self.common.quiet)
        with reading_bar(self.common.quiet or self.as_json) as report:
            scene = load_like(notes, self.data, (self.split,), self.downscale, self.every, report)
        views = getattr(scene, self.split)
        expect_scorable(views)
        result = score(field, views, scene.background, self.common.quiet or self.as_json, metrics)
        if sizes is not None:
            result = replace(result, file_bytes=sum(sizes.values()), sections=sizes)
        blank = blank_psnr(views)
        is_blank = result.psnr <= blank < EQUAL_PSNR
        if self.as_json:
            print_json({**result.facts(), "blank_psnr": blank, "no_better_than_blank": is_blank})
        else:
            say(False, result.to_text(views[0].image.shape))
        if is_blank:
            tell(self.common.quiet, f"{self.data}: a blank picture has {blank:.1f} dB: are these photos of this scene?")


def metrics_of(names: Sequence[MetricName]) -> dict[MetricName, Metric]:
    """Metrics by their names."""
    if not names:
        return {}
    from vqrf.training.perception import metric_of

    return {name: metric_of(name) for name in names}


@dataclass(frozen=True)
class Info:
    """Print what a .vqrf file, a run folder or a checkpoint holds."""

    scene: tyro.conf.Positional[Path]
    """A .vqrf file, a run folder, or a checkpoint of DirectVoxGO, svox2, TensoRF or official VQRF."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print JSON."""
    options: ImportFlags = AS_THEY_ARE
    limits: LimitFlags = NO_LIMITS

    def run(self) -> None:
        expect_of_checkpoint(self.scene, self.options)
        facts = facts_of_checkpoint(self.scene, self.options) if is_checkpoint(self.scene) else facts_of(self.scene)
        if self.as_json:
            print_json(facts)
            return
        table = Table(show_header=False, box=None)
        for name, value in facts.items():
            table.add_row(Text(one_line(name.replace("_", " "))), Text(one_line(in_words(name, value))))
        print_whole(table)


def in_words(name: str, value: Any) -> str:
    """A fact for a person, to whom Python's marks say nothing.

    >>> in_words("shape", [4, 5, 6]), in_words("layers", [[8, 3], [3, 8]]), in_words("sections", {"HEAD": 116, "PART": 9})
    ('4 x 5 x 6', '8 x 3, 3 x 8', 'HEAD 116, PART 9')
    >>> in_words("bytes", 1234567), in_words("lo", [-1.0, 0.5, 2.0]), in_words("test", {"psnr": 34.0576})
    ('1,234,567', '-1, 0.5, 2', 'psnr 34.06')
    """
    if isinstance(value, dict):
        return ", ".join(f"{key} {in_words(str(key), part)}" for key, part in value.items())
    if isinstance(value, list):
        parts = [in_words("", part) for part in value]
        is_sizes = name in SIZES or (not name and all(type(part) is int for part in value))
        return (" x " if is_sizes else ", ").join(parts)
    if isinstance(value, float):
        return f"{value:.6g}" if abs(value) < 1e-3 or name == "" else f"{value:.4g}"
    return f"{value:,}" if type(value) is int and name in COUNTS else str(value)


SIZES = ("shape", "reso")
"""Facts whose numbers are sides."""
COUNTS = ("bytes", "grid_bytes", "factor_bytes", "rows", "voxels_pruned")
"""Facts that are large numbers of things."""


@dataclass(frozen=True)
class Verify:
    """Check that a .vqrf file is intact: structure, checksums, and that it decodes and encodes again to the same bytes."""

    scene: tyro.conf.Positional[Path]
    """A .vqrf file."""
    strict: bool = False
    """Report also what the format allows but vqrf never writes."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print JSON: findings, each with section, offset and reason."""
    limits: LimitFlags = NO_LIMITS

    def run(self) -> None:
        data = read_bytes(self.scene, of_any_kind=self.strict or self.as_json)
        if self.strict or self.as_json:
            report_findings(self.scene, data, self.strict, self.as_json)
            return
        with named(self.scene):
            if fault := drawing_fault_of(verify(data, max_bytes=decoding_budget())):
                raise ValueError(f"is whole, but cannot be drawn: {fault}")
        say(False, f"{self.scene}: {len(data)} bytes, every section is whole and encodes again to the same bytes")


@dataclass(frozen=True)
class Demo:
    """Do the whole job on the built-in scene, in minutes: train, compress, verify, score, and write a report and a page."""

    out: Path = Path("demo")
    """Folder for all results."""
    common: CommonFlags = Common()

    def run(self) -> None:
        from vqrf.compression.goal import NO_GOAL, is_unfinished
        from vqrf.compression.job import Job
        from vqrf.compression.presets import PRESETS
        from vqrf.training.stages import config_of

        start = time.perf_counter()
        data, run, out, report, page = (self.out / name for name in ("data", "run", "scene.vqrf", "report.html", "scene.html"))
        self.out.mkdir(parents=True, exist_ok=True)
        if not is_unfinished(out):
            expect_writable(out, self.common)
        is_trained = (run / FIELD_FILE).exists() and not self.common.overwrite
        if is_trained and load_run(run)[1].get("seed") != self.common.seed:
            raise UsageError(f"{run}: was trained with another seed; give --overwrite")
        say(self.common.quiet, "drawing the built-in scene")
        save_scene(built_in_scene(self.common.seed), data)
        scene = replace(load_scene(data), name="built-in scene")
        if is_trained:
            finish_run(run, replace(self.common, quiet=True))
        else:
            train_into(run, scene, "demo", config_of("demo"), {"downscale": 1, "background": "white"}, self.common)
        field, notes = load_run(run)
        about = presented(About(title="An armillary sphere"), field.with_background(scene.background))
        job = Job(field, scene, PRESETS["demo"], NO_GOAL, notes, self.common.seed, self.common.device, about)
        compress_into(job, out, report, self.common)
        with named(out):
            verify(read_bytes(out))
        write_atomically(page, page_with_scene(read_bytes(out), out.name, about))
        seconds = time.perf_counter() - start
        say(self.common.quiet, f"done in {seconds:.0f} s; the report is {report}; open {page}, which turns")


def report_findings(path: Path, data: bytes, strict: bool, as_json: bool) -> None:
    """Print what is odd about a file, and end in an error if anything is."""
    budget = decoding_budget()
    findings = refusals(data, max_bytes=budget)
    if not findings:
        if fault := drawing_fault_of(decode(data, max_bytes=budget)):
            head = next(at for name, at, _ in sections(data) if name == "HEAD")
            findings.append(Finding("HEAD", head, f"cannot be drawn: {fault}"))
        findings += inspect(data, max_bytes=budget) if strict else []
    if as_json:
        print_json({"bytes": len(data), "findings": [asdict(finding) for finding in findings]})
    else:
        for finding in findings:
            say(False, f"{finding.section} at byte {finding.offset}: {finding.reason}")
    if findings:
        reason = f"{path}: {len(findings)} finding{'s' if len(findings) > 1 else ''}, first in {findings[0].section}"
        raise Said(reason) if as_json else UsageError(reason)
    if not as_json:
        say(False, f"{path}: {len(data)} bytes, every section is as an encoder writes it")


def facts_of(path: Path) -> dict[str, Any]:
    """What `info` prints."""
    if path.is_dir():
        expect_run(path)
        facts = {"kind": "trained field", **describe_field(path / FIELD_FILE)}
        return {**facts, **facts.pop("notes"), **facts}  # what a file says of itself comes after, and replaces nothing
    small, sizes = load_compressed(path)
    counts = [small.partition.size - small.n_coded - small.n_kept, small.n_coded, small.n_kept]
    facts = {
        "kind": "vqrf file",
        "bytes": sum(sizes.values()),
        "megabytes": sum(sizes.values()) / MEGABYTE,
        "shape": list(small.lattice.shape),
        **({} if small.lattice.space is None else {"space": small.lattice.space.name}),
        "lo": list(small.lattice.lo),
        "hi": list(small.lattice.hi),
        "channels": small.n_channels,
        "voxels_pruned_coded_kept": counts,
        **small.sizes(),
        "shading": small.equation.shading,
        "activation": small.equation.activation,
        "layers": [list(weight.shape if hasattr(weight, "shape") else weight.levels.shape) for weight, _ in small.color_mlp],
        "sections": sizes,
    }
    if fault := drawing_fault_of(small):
        facts["cannot_be_drawn"] = fault
    about = in_short(about_of(small.metadata))
    said = {**small.metadata, "about": about} if about else small.metadata
    return {**facts, **said, **facts}  # what a file says of itself comes after, and replaces nothing


V = TypeVar("V", Make, Batch, Process, Train, Compress, Render, Eval, Bench, Demo)


def set_up(verb: V) -> V:
    """Refuse common flags that cannot be, before anything is read or written; use as many threads as they say.

    Returns:
      The verb with a device that is there.
    """
    common = verb.common
    expect_workers(is_training=isinstance(verb, Train), threads=common.threads)
    if not 0 <= common.threads <= MAX_THREADS:
        raise UsageError(f"--threads: expected 0..{MAX_THREADS}, got {common.threads}")
    if isinstance(common, Seeded) and not 0 <= common.seed <= MAX_SEED:
        raise UsageError(f"--seed: expected 0..{MAX_SEED}, got {common.seed}")
    if not has_native() and not common.quiet:
        print(NO_CORE, file=sys.stderr)
    if has_native() and common.threads:
        from vqrf.kernels.native import set_threads

        set_threads(common.threads)
    if isinstance(common, Common):
        if common.deterministic and isinstance(verb, Batch | Bench):
            raise UsageError("--deterministic: is for one field at a time, and not for batch and bench")
        import torch

        if common.threads:
            torch.set_num_threads(common.threads)
        return replace(verb, common=with_device(common))
    return verb


Show = cli_view.View
Verb = (
    Make
    | Batch
    | Process
    | Check
    | Train
    | Compress
    | Render
    | Eval
    | Show
    | Export
    | Info
    | Meta
    | Verify
    | Convert
    | Push
    | Pull
    | Bench
    | Demo
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one verb, of the command line unless `arguments` are given; `vqrf.cli.ends` tells how it ends."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    with ending_in_words(is_json="--json" in words):
        if words[:1] in (["--version"], ["-V"]):
            print(f"{PROGRAM} {__version__}")
            return
        verb = read_words(Verb, words, "Radiance fields, small enough to send, embed and keep.")
        is_short = isinstance(verb, Show | Export | Info | Meta | Verify | Convert | Push | Pull | Check)
        limits = verb.limits if is_short else Limits(verb.common.max_memory)
        with limited(limits.n_bytes()):
            if not is_short:
                verb = set_up(verb)
            verb.run()


if __name__ == "__main__":
    main()
