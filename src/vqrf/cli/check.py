"""The verb `check`: what will be trained, before an hour is spent on it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from rich.table import Table
from rich.text import Text

from vqrf.cli.dataset import PhotoFlags, Photos, flags_named
from vqrf.cli.progress import reading_bar
from vqrf.cli.terminal import NO_LIMITS, LimitFlags, Writing, expect_writable, print_json, print_whole, printable, say
from vqrf.data.check import Check as Found
from vqrf.data.check import check_scene, reprojection_errors
from vqrf.data.colmap import list_observations
from vqrf.data.images import read_head
from vqrf.data.listing import Box, Listing
from vqrf.data.load import list_photos, load_scene
from vqrf.data.placement import SpaceName
from vqrf.data.scene import Scene, camera_bounds
from vqrf.rendering.contact import Surroundings, write_contact_sheet

CHECKED_SIDE = 480
"""Pixels of the longer side, about, at which photos are judged: above it is noise, below it smear is gone too."""

DIGITS = 4

SPACES: dict[SpaceName, str] = {
    "box": "a box: nothing outside of it is learnt",
    "front": "front: voxels grow with depth",
    "unbounded": "unbounded: what is far off is learnt too, in larger voxels; --space box leaves it out",
}
"""How the world lies in the voxels, for people."""


@dataclass(frozen=True)
class Check:
    """Inspect a dataset before training: its photos, its cameras, and what looks wrong with them."""

    data: tyro.conf.Positional[Path]
    """Dataset folder."""
    out: Path | None = None
    """Page to write. It shows the cameras from three sides, thumbnails with their masks, and what looks wrong."""
    background: str | None = None
    """Colour behind transparent pixels: white, black, or #rrggbb."""
    photos: PhotoFlags = Photos()
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print JSON."""
    overwrite: bool = False
    """Replace an output that exists already."""
    limits: LimitFlags = NO_LIMITS

    def run(self) -> None:
        if self.out is not None:
            expect_writable(self.out, Writing(overwrite=self.overwrite))
        listing = list_photos(self.data)
        with flags_named(), reading_bar(self.as_json) as report:
            options = self.photos.options(report)
            scene = load_scene(self.data, side=CHECKED_SIDE, background=self.background, options=options)
        found = check_scene(scene, reprojection_errors(listing, list_observations(self.data)))
        box = None if scene.space != "box" else camera_bounds(scene) if scene.box is None else scene.box
        facts = facts_of(listing, scene, found, box)
        if self.out is not None:
            write_contact_sheet(self.out, scene, found, Surroundings(box, listing.points), in_words(facts))
        if self.as_json:
            print_json({**facts, "warnings": found.warnings, "photos": [asdict(photo) for photo in found.photos]})
            return
        table = Table(show_header=False, box=None)
        for name, value in in_words(facts).items():
            table.add_row(name, Text(printable(value)))
        print_whole(table)
        for warning in found.warnings:
            say(False, f"odd: {warning}")
        say(self.out is None, f"wrote {self.out}")


def facts_of(listing: Listing, scene: Scene, found: Found, box: Box | None) -> dict[str, Any]:
    """What there is to say of the whole, as JSON has it. Lengths are in world units, angles in degrees."""
    sizes = sorted({read_head(shot.file).turned_size for shot in listing.shots})
    cameras = [view.camera for view in (*scene.train, *scene.test)]
    stand, off = found.stand, [photo.off for photo in found.photos if photo.off is not None]
    return {
        "layout": listing.layout,
        "n_train": len(scene.train),
        "n_test": len(scene.test),
        "hold_out": scene.hold_out,
        "sizes": sizes,
        "fields_of_view": sorted({round(math.degrees(2 * math.atan(c.width / 2 / c.fx)), 1) for c in cameras}),
        "lenses": sorted({c.lens.model if c.lens else "pinhole" for c in cameras}),
        "has_opacity": any(view.opacity is not None for view in scene.train),
        "has_masks": bool(scene.masked),
        "place_from": scene.source,
        "near": scene.near,
        "far": scene.far,
        "space": scene.space,
        "box": None if box is None else [corner.tolist() for corner in box],
        "pixels_off": None if not off else float(np.median(off)),
        "n_points": 0 if listing.points is None else len(listing.points),
        "middle": list(stand.middle),
        "distance": stand.distance,
        "up": list(scene.up),
        **{name: math.degrees(getattr(stand, name)) for name in ("spread", "gap", "lowest", "highest")},
        "remarks": list(scene.remarks),
    }


def in_words(facts: dict[str, Any]) -> dict[str, str]:
    """The same for people."""

    def numbers(values: Any) -> str:
        return " ".join(f"{value:.{DIGITS}g}" for value in values)

    def span(values: Any) -> str:
        return str(values[0]) if len(values) == 1 else f"{values[0]} to {values[-1]}"

    def some(values: Any) -> str:
        listed = [str(value) for value in values]
        return ", ".join(listed[:DIGITS]) + (f" and {len(listed) - DIGITS} more" if len(listed) > DIGITS else "")

    held_out = {"own": "by the dataset", "sector": "a sector"}.get(facts["hold_out"], f"every {facts['hold_out']}th")
    words = {
        "layout": facts["layout"],
        "photos": f"{facts['n_train']} to train on, {facts['n_test']} held out" + (f" ({held_out})" if facts["n_test"] else ""),
        "sizes": some(f"{width}x{height}" for width, height in facts["sizes"]),
        "lens": f"{some(facts['lenses'])}, {span(facts['fields_of_view'])} degrees wide",
        "transparent": "yes" if facts["has_opacity"] else "no",
        "masks": "yes" if facts["has_masks"] else "no",
        "cameras": f"around {numbers(facts['middle'])}, {facts['distance']:.{DIGITS}g} away; spread over "
        f"{facts['spread']:.0f} degrees, {facts['lowest']:.0f} to {facts['highest']:.0f} above the horizon",
        "up": numbers(facts["up"]),
        "near, far": numbers((facts["near"], facts["far"])) + (f" (from {facts['place_from']})" if facts["place_from"] else ""),
        "space": SPACES[facts["space"]],
    }
    if facts["box"] is not None:
        words["box"] = " to ".join(numbers(corner) for corner in facts["box"])
    if facts["n_points"]:
        off = "" if facts["pixels_off"] is None else f", off by {facts['pixels_off']:.2f} pixels in the photos"
        words["points"] = f"{facts['n_points']}{off}"
    for number, remark in enumerate(facts["remarks"]):
        words[f"remark {number + 1}"] = remark
    return words
