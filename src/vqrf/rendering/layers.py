"""What a picture knows besides its colours, as files: how opaque it is, and how far away what is there is.

    NAME.alpha.png   8 bits, 255 where nothing of the background is seen
    NAME.depth.png   16 bits, in thousandths of a world unit, as depth cameras have millimetres; 0 where there is nothing, and
                     no more than 65.535 units
    NAME.exr         both as floats of 32 bits, the channels A and Z; Z is in world units, and infinite where there is nothing

Depth is along the ray, the mean over what is there: with a surface that is half transparent it lies between that and what is
behind.

Source: the layout of OpenEXR files, single part, scan lines, without compression.
"""

from __future__ import annotations

import struct

import numpy as np

from vqrf.data.images import bytes_from_colors, png_from_image
from vqrf.geometry import Float32
from vqrf.rendering.render import Image

DEPTH_UNIT = 1e-3
"""World units of a step of a depth in PNG."""

LEAST_OPACITY = 0.5
"""Below it there is nothing whose distance could be told."""

EXR_MAGIC, EXR_VERSION, EXR_FLOAT = 20000630, 2, 2


def distances_of(image: Image) -> Float32:
    """[H,W], how far what is there is, in world units; infinite where there is nothing.

    `Image.depth` weighs distances by how opaque things are: what is half transparent would be half as far.
    """
    is_there = image.opacity >= LEAST_OPACITY
    return np.where(is_there, image.depth / np.where(is_there, image.opacity, 1), np.float32(np.inf)).astype(np.float32)


def layer_files(image: Image, layers: tuple[str, ...], is_exr: bool) -> dict[str, bytes]:
    """The files of a picture's layers, by their endings.

    Args:
      layers: of "alpha" and "depth".
      is_exr: both in one file of floats.
    """
    distances = distances_of(image)
    if is_exr:
        channels = {"A": image.opacity} if "alpha" in layers else {}
        return {".exr": exr_of(channels | ({"Z": distances} if "depth" in layers else {}))}
    found = {}
    if "alpha" in layers:
        found[".alpha.png"] = png_from_image(bytes_from_colors(image.opacity))
    if "depth" in layers:
        steps = np.where(np.isfinite(distances), np.rint(distances / DEPTH_UNIT), 0)
        found[".depth.png"] = png_from_image(np.minimum(steps, 65535).astype(np.uint16))
    return found


def exr_of(channels: dict[str, Float32]) -> bytes:
    """An OpenEXR file of channels [H,W] float32, by their names."""
    names = sorted(channels)  # in which order the format wants them
    height, width = channels[names[0]].shape
    box = struct.pack("<4i", 0, 0, width - 1, height - 1)
    listed = b"".join(name.encode() + b"\0" + struct.pack("<iB3xii", EXR_FLOAT, 0, 1, 1) for name in names) + b"\0"
    attributes = (
        ("channels", "chlist", listed),
        ("compression", "compression", b"\0"),
        ("dataWindow", "box2i", box),
        ("displayWindow", "box2i", box),
        ("lineOrder", "lineOrder", b"\0"),
        ("pixelAspectRatio", "float", struct.pack("<f", 1)),
        ("screenWindowCenter", "v2f", struct.pack("<2f", 0, 0)),
        ("screenWindowWidth", "float", struct.pack("<f", 1)),
    )
    head = struct.pack("<ii", EXR_MAGIC, EXR_VERSION)
    for name, kind, value in attributes:
        head += name.encode() + b"\0" + kind.encode() + b"\0" + struct.pack("<i", len(value)) + value
    head += b"\0"
    n_row = 4 * width * len(names)
    first = len(head) + 8 * height
    places = np.array([first + (8 + n_row) * y for y in range(height)], "<u8")
    rows = np.empty(height, [("y", "<i4"), ("n", "<i4"), ("values", "<f4", (len(names), width))])
    rows["y"], rows["n"] = np.arange(height), n_row
    for number, name in enumerate(names):
        rows["values"][:, number] = channels[name]
    return b"".join((head, places.tobytes(), rows.tobytes()))
