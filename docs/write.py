"""Write the pages that are made of other files: results.md, the README's table, the index of the log.

    python docs/write.py

`docs/results/*.csv` holds what was measured, a row a figure, each with the version, date, machine and command that made it.
`docs/results/versions.txt` names the versions that compute what the program computes now. A commit that changes bytes or fields
removes those before it. Only rows of these get into the README; all others are listed as of an earlier version. A test writes
the pages again and fails where they differ.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from vqrf.bench.curves import Curve, rate_difference

DOCS = Path(__file__).parent
README, RESULTS, INDEX = DOCS.parent / "README.md", DOCS / "results.md", DOCS / "log" / "INDEX.md"
BEGIN, END = "<!-- written by docs/write.py -->\n\n", "<!-- end -->"
SUBJECTS = (
    "training",
    "box",
    "front",
    "unbounded",
    "bases",
    "pyramid",
    "planes",
    "perceptual",
    "search",
    "entropy",
    "decoders",
    "web",
    "viewer",
    "splats",
    "own_renders",
    "speed",
    "alternatives",
)
"""Pages of the log, in the order in which a file comes about."""

MEGABYTE = 10**6
Row = dict[str, str]
Column = tuple[str, Callable[[Row], str]]
"""Its head, and what it shows of a row."""


def read_rows(name: str) -> list[Row]:
    """The rows of a CSV file in docs/results."""
    with (DOCS / "results" / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def current_versions() -> list[str]:
    """Commits that compute what the program computes now, newest last."""
    return (DOCS / "results" / "versions.txt").read_text().split()


def table_of(rows: Iterable[Row], columns: Sequence[Column]) -> str:
    """A Markdown table with a column for each name and rule."""
    lines = ["| " + " | ".join(name for name, _ in columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(rule(row) for _, rule in columns) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def text(name: str, unit: str = "") -> Callable[[Row], str]:
    """The rule that shows a column as it is, with its unit where there is something."""
    return lambda row: f"{row[name]}{unit}" if row[name] else ""


def duration(row: Row) -> str:
    """A time as a person says it, with the threads if it was one.

    >>> duration({"seconds": "3060", "threads": "1"})
    '51 min on one thread'
    """
    seconds = float(row["seconds"])
    said = f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
    return said + (" on one thread" if row["threads"] == "1" else "")


def megabytes(row: Row) -> str:
    return f"{float(row['bytes']) / MEGABYTE:.3f} MB"


# ------------------------------------------------------------------------------------------------------------------ results


def files_with_fields() -> list[Row]:
    """Rows of compressed files, each with its field's scene, base, preset, PSNR and time."""
    fields = {row["run"]: {f"field_{name}": value for name, value in row.items()} for row in read_rows("fields")}
    return [{**fields[row["run"]], **row} for row in read_rows("files")]


def field_duration(row: Row) -> str:
    return duration({"seconds": row["field_seconds"], "threads": row["field_threads"]})


def field_name(row: Row) -> str:
    return f"{row['field_scene']}, {row['field_base']} {row['field_preset']}"


def tables(rows: Sequence[Row], columns: Sequence[Column]) -> str:
    """Numbered rows: those that the program as it is would print, those of earlier versions, and where each comes from."""
    numbered = [{**row, "number": str(number)} for number, row in enumerate(rows, start=1)]
    before = [row for row in numbered if row["version"] not in current_versions()]
    columns = [("", text("number")), *columns]
    parts = [table_of([row for row in numbered if row not in before], columns)] if len(before) < len(rows) else []
    if before:
        parts += ["Rows of earlier versions, which computed something else or were slower:\n", table_of(before, columns)]
    source = [("", text("number")), ("version", text("version")), ("date", text("date")), ("machine", text("machine"))]
    source += [("command", lambda row: f"`{row['command']}`")]
    if any(row.get("note") for row in rows):
        source += [("note", text("note"))]
    return "\n".join([*parts, "How each row was measured:\n", table_of(numbered, source)])


def file_tables() -> str:
    columns = [
        ("scene, base, size of field", field_name),
        ("preset of `compress`", text("preset")),
        ("held-out views", text("views")),
        ("field", text("field_psnr", " dB")),
        ("file", text("psnr", " dB")),
        ("size", megabytes),
        ("time", duration),
    ]
    return tables(files_with_fields(), columns)


def field_tables() -> str:
    columns = [
        ("scene, base, preset of `train`", lambda row: f"{row['scene']}, {row['base']} {row['preset']}"),
        ("photos", text("photos")),
        ("held-out views", text("views")),
        ("PSNR", text("psnr", " dB")),
        ("SSIM", text("ssim")),
        ("time", duration),
        ("memory", text("gigabytes", " GB")),
    ]
    return tables(read_rows("fields"), columns)


def curve_section() -> str:
    rows = read_rows("curves")
    made = {
        preset: Curve.of_points(preset, [(float(row["bytes"]), float(row["psnr"])) for row in rows if row["preset"] == preset])
        for preset in ("compact", "paper")
    }
    percent, ends = rate_difference(made["compact"], made["paper"]), made["paper"].psnr
    said = (
        f"On lego, `compact` takes {-percent:.0f} % fewer bytes than `paper` at equal PSNR. This is the Bjontegaard rate\n"
        f"difference between {ends[0]:.2f} and {ends[-1]:.2f} dB. `compact` tunes for 9,500 steps, `paper` for 6,000.\n\n"
    )
    columns = [("scene", text("scene")), ("preset", text("preset")), ("`--quality`", text("quality"))]
    return said + tables(
        rows, [*columns, ("field", text("field_psnr", " dB")), ("file", text("psnr", " dB")), ("size", megabytes)]
    )


def kernel_tables() -> str:
    columns = [
        ("`standard` on lego, 8192 rays", text("what")),
        ("compiled core", text("native_ms", " ms")),
        ("reference (PyTorch)", text("reference_ms", " ms")),
        ("ratio", lambda row: f"{float(row['reference_ms']) / float(row['native_ms']):.0f}"),
        ("share of the floor", text("floor")),
    ]
    return tables(read_rows("kernels"), columns)


def timing_tables() -> str:
    return tables(read_rows("timings"), [("what", text("what")), ("value", text("value")), ("range", text("range"))])


def official_tables() -> str:
    columns = [("official file", text("file")), ("view 1", text("first", " dB")), ("view 2", text("second", " dB"))]
    return tables(read_rows("official"), columns)


def published_table() -> str:
    columns = [("who", text("who")), ("what", text("what")), ("PSNR", text("psnr", " dB"))]
    columns += [("size", lambda row: megabytes(row) if row["bytes"] else ""), ("source", text("source"))]
    return table_of(read_rows("published"), columns)


def results_page() -> str:
    """The whole of results.md."""
    values = {
        "versions": ", ".join(current_versions()),
        "files": file_tables(),
        "fields": field_tables(),
        "curves": curve_section(),
        "published": published_table(),
        "kernels": kernel_tables(),
        "timings": timing_tables(),
        "official": official_tables(),
    }
    template = (DOCS / "results" / "template.md").read_text()
    return re.sub(r"\{(\w+)\}", lambda found: values[found[1]].rstrip("\n"), template)


def readme_table() -> str:
    """The README's one table: rows of the program as it is, that are marked for it."""
    versions = set(current_versions())
    rows = [row for row in files_with_fields() if row["in_readme"] and {row["version"], row["field_version"]} <= versions]
    columns = [
        ("scene and field", field_name),
        ("preset", text("preset")),
        ("field", text("field_psnr", " dB")),
        ("file", text("psnr", " dB")),
        ("size", megabytes),
        ("training", field_duration),
        ("compression", duration),
    ]
    return table_of(rows, columns)


def with_table(readme: str) -> str:
    """The README with its table as the rows have it."""
    before, rest = readme.split(BEGIN)
    return before + BEGIN + readme_table() + "\n" + END + rest.split(END, 1)[1]


# ---------------------------------------------------------------------------------------------------------------------- log


def slug(heading: str) -> str:
    """The anchor that GitHub and the site make of a heading.

    >>> slug("Are DVGO's learning rates `high` enough?")
    'are-dvgos-learning-rates-high-enough'
    """
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def log_index() -> str:
    """The index of the log: of each entry its question, its answer, what it became, and when."""
    lines = ["# Log of experiments", "", (DOCS / "log" / "preface.txt").read_text().strip(), ""]
    for subject in SUBJECTS:
        page = (DOCS / "log" / f"{subject}.md").read_text()
        title = re.search(r"^# (.+)$", page, re.MULTILINE)
        assert title, f"{subject}.md has no title"
        lines += [f"## [{title[1]}]({subject}.md)", "", "| question | answer | became | date |", "|---|---|---|---|"]
        for heading, rest in re.findall(r"^## (.+)\n\n((?:- .+\n)+)", page, re.MULTILINE):
            facts = dict(re.findall(r"^- (Date|Answer|Became): (.+)$", rest, re.MULTILINE))
            became = re.sub(r"\]\(#", f"]({subject}.md#", facts["Became"])
            lines.append(f"| [{heading}]({subject}.md#{slug(heading)}) | {facts['Answer']} | {became} | {facts['Date']} |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def pages() -> dict[Path, str]:
    """Every page that is written from other files, and what it should hold."""
    return {README: with_table(README.read_text()), RESULTS: results_page(), INDEX: log_index()}


if __name__ == "__main__":
    for path, content in pages().items():
        path.write_text(content)
