"""Photos out of a film: of every stretch of it the sharpest frame.

Whoever walks around a thing with a phone moves all the time, and most frames are smeared by it. How sharp a frame is depends
on what it shows, too, so a frame is compared only with those just before and after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqrf.data.images import Bytes, jpeg_from_image
from vqrf.data.listing import SceneError
from vqrf.files import write_atomically

FILM_ENDINGS = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".3gp", ".mts")
JUDGED_SIDE = 480
"""Pixels of the longer side, about, at which sharpness is judged: above it is noise, below it smear is gone too."""

MAX_FRAMES = 2000
"""Of a film: more views than that add nothing, and their matching takes a day."""


def sharpness(gray: NDArray[np.uint8]) -> float:
    """The variance of the Laplacian of an image [H,W], 0 for a flat one; larger is sharper.

    Source: Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy", ICPR 2000. Departs: none.

    >>> sharpness(np.zeros((8, 8), np.uint8))
    0.0
    """
    level = gray.astype(np.float32)
    around = level[:-2, 1:-1] + level[2:, 1:-1] + level[1:-1, :-2] + level[1:-1, 2:]
    laplacian = around - 4 * level[1:-1, 1:-1]
    return float(laplacian.var()) if laplacian.size else 0.0


def thinned(gray: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """The image [H,W] with its longer side averaged down to `side` or a little more."""
    n = max(max(gray.shape) // side, 1)
    height, width = (length // n for length in gray.shape)
    blocks = gray[: height * n, : width * n].reshape(height, n, width, n)
    averaged: NDArray[np.uint8] = blocks.mean((1, 3)).astype(np.uint8)
    return averaged


def upright(image: Bytes, degrees: float) -> Bytes:
    """The image [H,W,3] turned counterclockwise by the multiple of 90 degrees that is nearest."""
    return np.ascontiguousarray(np.rot90(image, round(degrees / 90) % 4))


def pick_frames(film: Path, n: int, folder: Path, report: Callable[[int, int], None]) -> list[Path]:
    """Write the sharpest frame of each of `n` equal stretches of a film as JPEG files, turned upright.

    Args:
      n: 1..MAX_FRAMES; a film of fewer frames gives all of them.
      folder: where the files go; their names are in the order of the film.
      report: called with the frames looked at and the number of all.

    Raises:
      SceneError: the file is no film, or ends in the middle of its first stretch.
      ModuleNotFoundError: PyAV is not installed.
    """
    import av

    try:
        with av.open(str(film)) as container:
            if not container.streams.video:
                raise SceneError(film, "holds no pictures")
            n_frames = sum(packet.pts is not None for packet in container.demux(container.streams.video[0]))
        with av.open(str(film)) as container:
            container.streams.video[0].thread_type = "AUTO"
            return _pick(container.decode(video=0), n_frames, min(n, MAX_FRAMES), folder, report)
    except av.FFmpegError as error:
        raise SceneError(film, f"cannot be read as a film: {error.strerror}") from error


def _pick(frames: Iterable[Any], n_frames: int, n: int, folder: Path, report: Callable[[int, int], None]) -> list[Path]:
    written: list[Path] = []
    best: tuple[float, Any] | None = None
    n = min(n, n_frames)
    for number, frame in enumerate(frames):
        stretch = min(number * n // max(n_frames, 1), n - 1)
        if best is not None and stretch > len(written):
            written.append(_write(best[1], len(written), folder))
            best = None
        worth = sharpness(thinned(frame.to_ndarray(format="gray"), JUDGED_SIDE))
        if best is None or worth > best[0]:
            best = worth, frame
        report(number + 1, max(n_frames, number + 1))
    if best is not None:
        written.append(_write(best[1], len(written), folder))
    return written


def _write(frame: Any, number: int, folder: Path) -> Path:
    path = folder / f"frame_{number:05d}.jpg"
    image = upright(frame.to_ndarray(format="rgb24"), getattr(frame, "rotation", 0))
    write_atomically(path, jpeg_from_image(image))
    return path
