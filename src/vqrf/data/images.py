"""Photos as pixels: the only room that opens images.

Images are bytes: rgb already composited on the background, because a hundred views of 800x800 as floats are
0.8 GB. What a file holds opaque is held exactly; a pixel that was half transparent or averaged is rounded to
1/255, an error of variance (1/255)^2 / 12, which moves a PSNR of 35 dB by less than 0.02 dB.
"""

from __future__ import annotations

import importlib
import io
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from vqrf.data.listing import SAME_ASPECT, Color, SceneError
from vqrf.geometry import Float32

Bytes = NDArray[np.uint8]

IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "AVIF", "HEIF")
"""Of which an older Pillow has no AVIF, and none has HEIF by itself."""

HEIC_ENDINGS = (".heic", ".heif")
IMAGE_MODES = ("RGB", "RGBA", "L", "LA", "P", "1")
"""Of 8 bits or fewer. Pillow gives colours of 16 bits as RGB and RGBA, by their upper bytes."""

WIDE_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I")
"""Gray of 16 bits."""

ORIENTATION_TAG = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What an orientation of EXIF asks for."""

PNG_EXIF = {"exif", "Raw profile type exif"}
"""Where the head of a PNG has EXIF. Where it has none, Pillow reads all of the pixels to look behind them."""

SIDEWAYS = (5, 6, 7, 8)
"""Orientations by which width and height change places."""

JPEG_QUALITY = 95
KEPT_FORMATS = {"PNG": ".png", "JPEG": ".jpg"}
"""What COLMAP reads wherever it was built."""

LOSSY_FORMATS = ("JPEG", "MPO", "WEBP", "AVIF", "HEIF")
"""What lost more than a good JPEG loses."""

EXIF_DETAILS, FOCAL_LENGTH, FOCAL_LENGTH_35 = 0x8769, 0x920A, 0xA405
"""EXIF's tags of the details, and of the focal length in mm: the lens's own, and what it would be on a film of 35 mm."""

PIXELS_PER_STRIP = 1 << 20
"""Pixels that are floats at a time while a photo is averaged: 40 MB."""


@contextmanager
def bombs_refused() -> Iterator[None]:
    """Make Pillow refuse images of too many pixels, of which it only warns, and keep to itself what it finds odd about EXIF.
    Around everything that opens images, and not around each: the filter of warnings is the whole process's."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


ONE_PICTURE = ("PNG", "WEBP", "TIFF", "AVIF")
"""Formats of which a file with several pictures is a film, or pages. After a phone's JPEG and HEIF there are small copies."""

MANY_PIXELS, MOST_PIXELS_OF_BYTE = 1 << 24, 2048
"""A file with more of both is a bomb: a byte of deflate becomes 1032 at most, and of a photo some twenty."""


@dataclass(frozen=True)
class Head:
    """What the head of an image file says: the size in which its pixels are stored, and how a viewer turns it.

    Attributes:
      orientation: of EXIF, 1 to 8; 1 where it says nothing.
    """

    size: tuple[int, int]
    orientation: int = 1

    @property
    def turned_size(self) -> tuple[int, int]:
        """As a viewer shows it."""
        width, height = self.size
        return (height, width) if self.orientation in SIDEWAYS else self.size


def read_head(path: Path) -> Head:
    """The head of a file. Raises SceneError, of a small file with so many pixels that it was made to take time, too."""
    with _opened(path) as image:
        n_pixels, n_bytes = image.width * image.height, path.stat().st_size
        if n_pixels > MANY_PIXELS and n_pixels > MOST_PIXELS_OF_BYTE * n_bytes:
            raise SceneError(path, f"has {n_pixels} pixels in {n_bytes} bytes, as no photo has")
        may_turn = image.format != "PNG" or not PNG_EXIF.isdisjoint(image.info)
        orientation = image.getexif().get(ORIENTATION_TAG, 1) if may_turn else 1
        return Head(image.size, orientation if isinstance(orientation, int) and orientation in TURNS else 1)


def read_photo(
    path: Path, downscale: int, background: Color, *, orientation: int = 1, mask: Bytes | None = None
) -> tuple[Bytes, Bytes | None]:
    """A photo as [H/n,W/n,3] and [H/n,W/n] uint8: block averages of premultiplied colour on the background, and of alpha.

    What is left over at the right and at the bottom is dropped. There is no alpha where nothing can be transparent.

    Args:
      orientation: of EXIF, by which it is turned first.
      mask: [H,W] of the photo as it is turned, in 1/255: multiplied with its alpha.

    Raises:
      SceneError: it cannot be read.

    Safe for untrusted input inside of `bombs_refused`.
    """
    pixels = _read_pixels(path, orientation)
    if pixels.shape[2] == 3 and mask is None:
        return averaged_colors(pixels, downscale), None
    rgba = pixels if pixels.shape[2] == 4 else np.concatenate([pixels, np.full_like(pixels[..., :1], 255)], -1)
    height, width = (side // downscale for side in rgba.shape[:2])
    colors, opacity = np.empty((height, width, 3), np.uint8), np.empty((height, width), np.uint8)
    rows = max(PIXELS_PER_STRIP // (width * downscale**2), 1)
    for start in range(0, height, rows):
        strip = slice(start, min(start + rows, height))
        rows_read = slice(strip.start * downscale, strip.stop * downscale)
        block = rgba[rows_read, : width * downscale]
        if mask is not None:
            block = block.copy()
            block[..., 3] = np.rint(block[..., 3] * (mask[rows_read, : width * downscale] / np.float32(255)))
        colors[strip], opacity[strip] = _composite(block, downscale, background)
    return colors, opacity


def read_mask(path: Path, size: tuple[int, int], *, orientation: int = 1) -> Bytes:
    """A mask [H,W] uint8 for a photo of `size` as it is turned: its alpha where it has some, or how bright it is.

    Args:
      orientation: by which the photo was turned; the mask is turned too, unless it has the turned photo's shape already.

    Raises:
      SceneError: it cannot be read, or is of another shape than the photo.

    Safe for untrusted input inside of `bombs_refused`.
    """
    with _opened(path) as image:
        has_alpha = image.mode in ("LA", "RGBA") and int(np.asarray(image.getchannel("A")).min()) < 255
        gray = image.getchannel("A") if has_alpha else Image.fromarray(_eight_bits(path, image)).convert("L")
        has_turned_shape = orientation in SIDEWAYS and (gray.width > gray.height) == (size[0] > size[1])
        if orientation != 1 and not has_turned_shape:
            gray = gray.transpose(TURNS[orientation])
        if not 1 / SAME_ASPECT < (gray.width * size[1]) / (gray.height * size[0]) < SAME_ASPECT:
            raise SceneError(path, f"is {gray.width}x{gray.height}, and its photo is {size[0]}x{size[1]}")
        if gray.size != size:
            gray = gray.resize(size, Image.Resampling.BOX)
        return np.asarray(gray, np.uint8)


def averaged_colors(pixels: Bytes, downscale: int) -> Bytes:
    """Block averages [H/n,W/n,3] of opaque pixels [H,W,3], with what is left over dropped. No floats: five times as fast."""
    if downscale == 1:
        return pixels
    height, width = pixels.shape[0] // downscale, pixels.shape[1] // downscale
    rows = pixels[: height * downscale, : width * downscale].reshape(height, downscale, -1)
    sums = np.zeros((height, rows.shape[2]), np.uint16 if downscale <= 256 else np.uint32)
    for i in range(downscale):
        sums += rows[:, i]
    blocks = sums.reshape(height, width, downscale, 3).sum(2, dtype=np.uint64)
    average: Bytes = np.rint(blocks / downscale**2).astype(np.uint8)
    return average


def averaged_mask(mask: Bytes, downscale: int) -> Bytes:
    """Block averages [H/n,W/n] of a mask, with what is left over dropped."""
    height, width = mask.shape[0] // downscale, mask.shape[1] // downscale
    blocks = mask[: height * downscale, : width * downscale].reshape(height, downscale, width, downscale)
    average: Bytes = np.rint(blocks.mean((1, 3), dtype=np.float32)).astype(np.uint8)
    return average


def png_from_image(image: Bytes | NDArray[np.uint16]) -> bytes:
    """The PNG file of an image [H,W,3] or [H,W] uint8, or [H,W] uint16."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def jpeg_from_image(image: Bytes) -> bytes:
    """The JPEG file of an image [H,W,3] uint8, with as little loss as JPEG has."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()


def upright_photo(path: Path) -> tuple[bytes, str]:
    """A photo's file as every program sees it alike, and its ending: PNG or JPEG of 8 bits that no EXIF says to turn.

    One that is so already is not touched. Others lose their alpha, and the EXIF's word on how to turn them, but no other.

    Raises:
      SceneError: it cannot be read.
    """
    with _opened(path) as image:
        kind = image.format or ""
        if kind in KEPT_FORMATS and image.mode in ("RGB", "L") and image.getexif().get(ORIENTATION_TAG, 1) == 1:
            return path.read_bytes(), KEPT_FORMATS[kind]
        turned = ImageOps.exif_transpose(image)
        buffer = io.BytesIO()
        is_png = kind not in LOSSY_FORMATS
        turned.convert("RGB").save(
            buffer, "PNG" if is_png else "JPEG", quality=JPEG_QUALITY, subsampling=0, exif=turned.getexif()
        )
        return buffer.getvalue(), ".png" if is_png else ".jpg"


def photo_facts(path: Path) -> tuple[int, int, float]:
    """Width, height and what the EXIF says of the focal length, 0 where it says nothing: alike for photos of one lens.

    Raises:
      SceneError: it cannot be read.
    """
    with _opened(path) as image:
        details = image.getexif().get_ifd(EXIF_DETAILS)
        said = [details.get(tag, 0) for tag in (FOCAL_LENGTH_35, FOCAL_LENGTH)]
        return image.width, image.height, next((float(value) for value in said if value and math.isfinite(value)), 0.0)


def bytes_from_colors(colors: Float32) -> Bytes:
    """The nearest uint8 of values in 0..1; what lies outside is clipped."""
    image: Bytes = np.rint(np.clip(colors, 0, 1) * 255).astype(np.uint8)
    return image


def _read_pixels(path: Path, orientation: int) -> Bytes:
    """[H,W,3] uint8 of what cannot be transparent, else [H,W,4] with alpha, not premultiplied."""
    with _opened(path) as image:
        if image.mode not in WIDE_MODES:
            if image.mode not in IMAGE_MODES:
                raise SceneError(path, f"expected rgb or gray, with or without alpha, got mode {image.mode}: convert it to PNG")
            is_opaque = image.mode in ("RGB", "L", "1") and "transparency" not in image.info
            turned = image if orientation == 1 else image.transpose(TURNS[orientation])
            mode = "RGB" if is_opaque else "RGBA"
            return np.asarray(turned if turned.mode == mode else turned.convert(mode), np.uint8)  # or Pillow makes a copy
        gray = Image.fromarray(_eight_bits(path, image))
        return np.asarray((gray if orientation == 1 else gray.transpose(TURNS[orientation])).convert("RGB"), np.uint8)


def _eight_bits(path: Path, image: Image.Image) -> Bytes:
    """An image as uint8, [H,W] or [H,W,3], gray of 16 bits rounded to 8, which Pillow would clip."""
    if image.mode in WIDE_MODES:
        levels = np.asarray(image)
        if levels.min(initial=0) < 0 or levels.max(initial=0) > 65535:
            raise SceneError(path, f"has values beyond 16 bits in mode {image.mode}: convert it to PNG")
        return ((levels.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    if image.mode not in IMAGE_MODES:
        raise SceneError(path, f"expected rgb or gray, got mode {image.mode}: convert it to PNG")
    return np.asarray(image.convert("RGB"), np.uint8)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """The image file, its pixels not yet read. What goes wrong while it is open becomes a SceneError."""
    if not path.is_file():
        raise SceneError(path, "there is no such image")
    if path.suffix.lower() in HEIC_ENDINGS:
        try:
            pillow_heif = importlib.import_module("pillow_heif")
        except ImportError:
            raise SceneError(path, "needs pillow-heif: pip install 'vqrf[heic]', or convert it to JPEG") from None
        pillow_heif.register_heif_opener()  # twice is as good as once
    try:
        Image.init()
        with Image.open(path, formats=[name for name in IMAGE_FORMATS if name in Image.OPEN]) as image:
            if image.format in ONE_PICTURE and getattr(image, "is_animated", False):
                raise SceneError(path, "holds several pictures, expected one")
            yield image
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise SceneError(path, "has more pixels than an image may have") from None
    except UnidentifiedImageError:
        raise SceneError(path, f"is no image, or not one of {', '.join(IMAGE_FORMATS)}") from None
    except SceneError:
        raise
    except (OSError, SyntaxError, ValueError, MemoryError) as error:  # what Pillow's decoders raise on a broken file
        raise SceneError(path, f"cannot be read: {str(error) or 'it asks for too much memory'}") from None


def _composite(rgba: Bytes, downscale: int, background: Color) -> tuple[Bytes, Bytes]:
    alpha = rgba[..., 3:].astype(np.float32) / 255
    colors = rgba[..., :3] * (alpha / 255) + (1 - alpha) * np.array(background, np.float32)
    height, width = rgba.shape[0] // downscale, rgba.shape[1] // downscale
    shape = (height, downscale, width, downscale, -1)
    blocks, opacity = (a.reshape(shape).mean((1, 3), dtype=np.float32) for a in (colors, alpha))
    return bytes_from_colors(blocks), bytes_from_colors(opacity[..., 0])
