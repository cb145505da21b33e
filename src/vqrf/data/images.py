"""Photos as pixels: the only room that opens images.

Images are bytes: rgb already composited on the background, because a hundred views of 800x800 as floats are
0.8 GB. What a file holds opaque is held exactly; a pixel that was half transparent or averaged is rounded to
1/255, an error of variance (1/255)^2 / 12, which moves a PSNR of 35 dB by less than 0.02 dB.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from vqrf.data.listing import Color, SceneError
from vqrf.geometry import Float32

Bytes = NDArray[np.uint8]

IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "AVIF")
IMAGE_MODES = ("RGB", "RGBA", "L", "LA", "P")
"""8-bit modes; the wider ones would have to be cut to 8 bits, and Pillow clips them without a word."""

PIXELS_PER_STRIP = 1 << 20
"""Pixels that are floats at a time while a photo is averaged: 40 MB."""


@contextmanager
def bombs_refused() -> Iterator[None]:
    """Make Pillow refuse images of too many pixels, of which it only warns. Around everything that opens images, and not
    around each: the filter of warnings is the whole process's."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def read_size(path: Path) -> tuple[int, int]:
    """Width and height, from the head of the file. Raises SceneError."""
    with _opened(path) as image:
        return image.size


def read_photo(path: Path, downscale: int, background: Color) -> tuple[Bytes, Bytes]:
    """A photo as [H/n,W/n,3] and [H/n,W/n] uint8: block averages of premultiplied colour laid on the background, and of alpha.

    What is left over at the right and at the bottom is dropped.

    Raises:
      SceneError: it cannot be read.

    Safe for untrusted input inside of `bombs_refused`.
    """
    rgba = _read_rgba(path)
    height, width = (side // downscale for side in rgba.shape[:2])
    colors, opacity = np.empty((height, width, 3), np.uint8), np.empty((height, width), np.uint8)
    rows = max(PIXELS_PER_STRIP // (width * downscale**2), 1)
    for start in range(0, height, rows):
        strip = slice(start, min(start + rows, height))
        block = rgba[strip.start * downscale : strip.stop * downscale, : width * downscale]
        colors[strip], opacity[strip] = _composite(block, downscale, background)
    return colors, opacity


def png_from_image(image: Bytes) -> bytes:
    """The PNG file of an image [H,W,3] or [H,W] uint8."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def bytes_from_colors(colors: Float32) -> Bytes:
    """The nearest uint8 of values in 0..1; what lies outside is clipped."""
    image: Bytes = np.rint(np.clip(colors, 0, 1) * 255).astype(np.uint8)
    return image


def _read_rgba(path: Path) -> Bytes:
    """[H,W,4] uint8, alpha not premultiplied."""
    with _opened(path) as image:
        if image.mode not in IMAGE_MODES:
            raise SceneError(path, f"expected 8 bits per channel, rgb or gray, got mode {image.mode}")
        return np.asarray(image.convert("RGBA"), np.uint8)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """The image file, its pixels not yet read. What goes wrong while it is open becomes a SceneError."""
    if not path.is_file():
        raise SceneError(path, "there is no such image")
    try:
        with Image.open(path, formats=IMAGE_FORMATS) as image:
            yield image
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise SceneError(path, "has more pixels than an image may have") from None
    except UnidentifiedImageError:
        raise SceneError(path, f"is no image, or not one of {', '.join(IMAGE_FORMATS)}") from None
    except SceneError:
        raise
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow's decoders raise on a broken file
        raise SceneError(path, f"cannot be read: {error}") from None


def _composite(rgba: Bytes, downscale: int, background: Color) -> tuple[Bytes, Bytes]:
    alpha = rgba[..., 3:].astype(np.float32) / 255
    colors = rgba[..., :3] * (alpha / 255) + (1 - alpha) * np.array(background, np.float32)
    height, width = rgba.shape[0] // downscale, rgba.shape[1] // downscale
    shape = (height, downscale, width, downscale, -1)
    blocks, opacity = (a.reshape(shape).mean((1, 3), dtype=np.float32) for a in (colors, alpha))
    return bytes_from_colors(blocks), bytes_from_colors(opacity[..., 0])
