"""The verb `batch`: many captures, datasets or checkpoints, each to a file and a page, and one page that shows them all."""

from __future__ import annotations

import re
import time
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from html import escape
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import tyro

from vqrf.bars import progress_bar
from vqrf.cli.compress import Compress
from vqrf.cli.ends import explain
from vqrf.cli.make import Base, Make, Size
from vqrf.cli.meta import Presenting
from vqrf.cli.terminal import Common, CommonFlags, UsageError, one_line, read_bytes, say, tell
from vqrf.cli.view import notes_of
from vqrf.codec.about import about_of
from vqrf.codec.bitstream import decode
from vqrf.codec.contents import metadata_of
from vqrf.compression.goal import NO_GOAL, Goal, is_unfinished
from vqrf.data.images import Bytes, bytes_from_colors
from vqrf.fields.field import expand
from vqrf.fields.run import FIELD_FILE, up_of
from vqrf.files import read_file, write_atomically
from vqrf.interop import is_checkpoint
from vqrf.rendering.html import MAX_IMAGE_BYTES, data_uri, page_of
from vqrf.rendering.page import page_with_scene
from vqrf.rendering.poster import camera_of, first_view
from vqrf.rendering.render import render

ROWS_FILE, GALLERY_FILE = "batch.csv", "index.html"
MAX_ENTRIES, MAX_MANIFEST_BYTES = 100_000, 1 << 25
COMMENT = re.compile(r"(?:^|\s)#")
PICTURE_SIDE, MAX_PICTURES = 240, 500
TABLE_COLUMNS = ("bytes", "PSNR", "seconds")


@dataclass(frozen=True)
class Entry:
    """A line of the manifest, to be made a file of.

    Attributes:
      name: of the file, without its ending.
      source: what the line names.
      asked: a fingerprint of the line and the flags.
    """

    name: str
    source: str
    asked: str

    @property
    def key(self) -> tuple[str, str]:
        return self.name, self.asked


@dataclass(frozen=True)
class EntryRow:
    """What became of a line.

    Attributes:
      n_bytes: of the file; 0 where there is none.
      psnr: dB on photos held out, or of a field that came without photos on its own renders; "" where none were held out.
      seconds: wall time.
      fault: why there is no file, in words; empty where there is one.
    """

    name: str
    asked: str
    n_bytes: int
    psnr: str
    seconds: float
    fault: str

    @property
    def key(self) -> tuple[str, str]:
        return self.name, self.asked


@dataclass(frozen=True)
class Batch:
    """Make files and pages from many captures, datasets or checkpoints, and one page that shows them all.

    If it is stopped, the same command continues. It also tries again what failed.
    """

    manifest: tyro.conf.Positional[Path]
    """Text file. Each line names a folder of photos, a film, a dataset, a run folder or a checkpoint.
    Paths are relative to this file; # after a blank, or at the start of a line, begins a comment."""
    out: Path
    """Folder for the results: NAME.vqrf and NAME.html of each line, index.html, which shows all, and batch.csv."""
    preset: Size = "standard"
    """As for `make`."""
    base: Base | None = None
    """Kind of field, as for `make`."""
    goal: Annotated[Goal, tyro.conf.arg(name="goal"), tyro.conf.OmitArgPrefixes] = NO_GOAL
    ray: str | None = None
    """Address of a Ray cluster that does the work. All its machines must see the same folders."""
    common: CommonFlags = Common()

    def run(self) -> None:
        from vqrf.bench import runners

        try:
            self.goal.check()
        except ValueError as error:
            raise UsageError(str(error)) from None
        entries = self.entries()
        self.out.mkdir(parents=True, exist_ok=True)
        rows_file = self.out / ROWS_FILE
        self._forget_faults(rows_file)
        runner = runners.run_in_turn if self.ray is None else partial(runners.run_on_ray, address=self.ray)
        verb = replace(self, out=self.out.resolve(), manifest=self.manifest.resolve())
        with progress_bar("batch", len(entries), self.common.quiet) as advance:

            def on_row(row: EntryRow) -> None:
                advance(1, row.name)
                tell(self.common.quiet, f"{row.name}: {row.fault or f'{row.n_bytes} bytes'}")

            rows = runners.run_jobs(entries, rows_file, EntryRow, partial(work_on, verb=verb), runner, on_row=on_row)
        write_atomically(self.out / GALLERY_FILE, gallery_of(self.out, rows))
        faults = [row for row in rows if row.fault]
        say(self.common.quiet, f"made {len(rows) - len(faults)} of {len(rows)}; open {self.out / GALLERY_FILE}")
        if faults:
            raise UsageError(f"{len(faults)} of {len(rows)} failed, first {faults[0].name}: {faults[0].fault}")

    def entries(self) -> list[Entry]:
        """What is to be made, in order.

        Raises:
          UsageError: the manifest is none, or two lines would be one file.
        """
        try:
            text = read_file(self.manifest, MAX_MANIFEST_BYTES).decode("utf-8-sig")
        except UnicodeDecodeError:
            raise UsageError(f"{self.manifest}: is no text in UTF-8") from None
        flags = repr((self.preset, self.base, asdict(self.goal), self.common.seed))
        found: dict[str, Entry] = {}
        for number, line in enumerate(text.splitlines(), start=1):
            said = COMMENT.split(line)[0].strip()
            if not said:
                continue
            if "\0" in said:
                raise UsageError(f"{self.manifest}: line {number}: no file can have a null character in its name")
            source = (self.manifest.parent / said).resolve()
            name = source.name if source.is_dir() else source.stem
            if not source.exists():
                raise UsageError(f"{self.manifest}: line {number}: there is no {said}")
            if name in found or name == Path(GALLERY_FILE).stem or len(found) == MAX_ENTRIES:
                reason = f"expected another name than {name}, and at most {MAX_ENTRIES}"
                raise UsageError(f"{self.manifest}: line {number}: {reason}")
            asked = f"{zlib.crc32(f'{source}{flags}'.encode(errors='surrogateescape')):08x}"
            found[name] = Entry(name, str(source), asked)
        if not found:
            raise UsageError(f"{self.manifest}: names nothing")
        return list(found.values())

    def _forget_faults(self, rows_file: Path) -> None:
        from vqrf.bench import runners

        if self.common.overwrite:
            rows_file.unlink(missing_ok=True)
        if rows_file.exists():
            try:
                rows = runners.load_rows(rows_file, EntryRow)
            except ValueError as error:
                raise UsageError(str(error)) from None
            runners.save_rows(rows_file, EntryRow, [row for row in rows if not row.fault])


def work_on(entry: Entry, *, verb: Batch) -> EntryRow:
    """Make the file and the page of a line. Runs in any process; what goes wrong is in the row."""
    start, out, fault = time.perf_counter(), verb.out / f"{entry.name}.vqrf", ""
    is_made_before = out.exists() and not is_unfinished(out)  # and its row was not written, or it is of other flags
    common = replace(verb.common, overwrite=is_made_before or verb.common.overwrite, quiet=True)
    source, page = Path(entry.source), verb.out / f"{entry.name}.html"
    try:
        if is_checkpoint(source) or (source / FIELD_FILE).is_file():
            shown = Presenting(report=verb.out / f"{entry.name}.report.html")
            Compress(source, out, shown=shown, goal=verb.goal, common=common).run()
            data = read_bytes(out)
            write_atomically(page, page_with_scene(data, out.name, about_of(metadata_of(data))))
        else:
            Make(source, out, preset=verb.preset, base=verb.base, goal=verb.goal, common=common).run()
    except Exception as error:
        fault = one_line(explain(error)[1])
    seconds = round(time.perf_counter() - start, 1)
    if fault:
        return EntryRow(*entry.key, 0, "", seconds, fault)
    data = read_bytes(out)
    test: Any = metadata_of(data).get("test")
    psnr = test.get("psnr") if isinstance(test, dict) else None
    return EntryRow(*entry.key, len(data), f"{psnr:.2f}" if isinstance(psnr, float) else "", seconds, "")


def gallery_of(folder: Path, rows: Sequence[EntryRow]) -> bytes:
    """A page with a link for each file, a picture for the first `MAX_PICTURES`, and a table of all."""
    figures: list[str] = []
    lines: list[str] = []
    for row in rows:
        name, link = escape(row.name), escape(quote(f"{row.name}.html"))
        cells = (f"{row.n_bytes}", row.psnr, f"{row.seconds:.0f}") if not row.fault else (escape(row.fault), "", "")
        named = name if row.fault else f'<a href="{link}">{name}</a>'
        lines.append(f'<tr><th scope="row">{named}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>')
        if not row.fault and len(figures) < MAX_PICTURES:
            most = MAX_IMAGE_BYTES // min(len(rows), MAX_PICTURES)
            picture = data_uri(picture_of(folder / f"{row.name}.vqrf"), most)
            image = f'<a href="{link}"><img src="{picture}" alt=""></a>'
            figures.append(
                f"<figure>{image}<figcaption>{name}<br><span>{row.n_bytes / 1e6:.2f} MB</span></figcaption></figure>"
            )
    heads = "".join(f"<th>{head}</th>" for head in TABLE_COLUMNS)
    table = f"<table class='scores'><thead><tr><th>name</th>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    sheet, scroll = f'<div class="sheet">{"".join(figures)}</div>', f'<div class="scroll">{table}</div>'
    title = f"{sum(not row.fault for row in rows)} scenes"
    return page_of(title, [f"<h1>{title}</h1>", sheet, "<h2>All of them</h2>", scroll])


def picture_of(path: Path) -> Bytes:
    """[S,S,3] uint8: what the file shows first."""
    small = decode(read_bytes(path))
    field, about = expand(small), about_of(small.metadata)
    up = up_of(about, notes_of(small))
    camera = camera_of(about.view or first_view(field, up), (PICTURE_SIDE, PICTURE_SIDE), up)
    return bytes_from_colors(render(field, camera).rgb)
