"""Checkpoints of other programs, in and out: DirectVoxGO's `.tar`, svox2's `.npz`, TensoRF's `.th`, and what VQRF's official
code writes.

    pickles, archives   their containers, read as data: no code in a file is run, no size in it is believed
    dvgo                DirectVoxGO's checkpoints and `RadianceField`; `dvgo_places` has its models of places
    ndc                 where forward-facing fields lie: their cameras say so, and no checkpoint does
    svox2               Plenoxels' checkpoints and `RadianceField`
    tensorf             TensoRF's checkpoints and `TensorfField`, factors that make a `RadianceField`
    folder              VQRF's `extreme_saving` and `CompressedField`

Words that the papers' codes use and this one does not are said in here only.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar, get_args

import numpy as np

from vqrf.data.rays import RayPool
from vqrf.data.scene import View
from vqrf.fields.field import RadianceField, expand
from vqrf.interop.archives import CheckpointError, load_torch, open_zip
from vqrf.interop.dvgo import bytes_of_dvgo, load_dvgo, outline_dvgo
from vqrf.interop.folder import FOLDER, files_of_vqrf, is_vqrf_folder, load_vqrf, outline_vqrf, zip_of_vqrf
from vqrf.interop.ndc import NOWHERE, Ndc, ndc_of_llff
from vqrf.interop.parts import USUAL, Corners, Imported, Norm, Outline, Sampling, reading
from vqrf.interop.svox2 import LINKS, SCALE_OF_BLENDER, bytes_of_svox2, load_svox2, outline_svox2
from vqrf.interop.tensorf import (
    AlphaMask,
    TensorfField,
    bytes_of_tensorf,
    import_tensorf,
    is_tree,
    load_tensorf,
    outline_tensorf,
    tensorf_of,
)
from vqrf.kernels import select

__all__ = [
    "FOLDER",
    "NOWHERE",
    "AlphaMask",
    "CheckpointError",
    "Corners",
    "Imported",
    "Ndc",
    "Norm",
    "Outline",
    "Sampling",
    "TensorfField",
    "bytes_of_dvgo",
    "bytes_of_svox2",
    "bytes_of_tensorf",
    "files_of_vqrf",
    "guess_corners",
    "guess_scale",
    "import_tensorf",
    "is_checkpoint",
    "is_svox2",
    "is_tensorf",
    "is_vqrf",
    "load_checkpoint",
    "load_dvgo",
    "load_svox2",
    "load_tensorf",
    "load_vqrf",
    "ndc_of_llff",
    "outline_checkpoint",
    "tensorf_of",
    "zip_of_vqrf",
]

FOREIGN_STARTS = (b"PK\x03\x04", b"\x80\x02\x8a\x0a")
"""First bytes of a zip, and of what torch wrote before its files were zips."""

Choice = TypeVar("Choice")

GUESS_RAYS = 4096
"""Enough to tell: the wrong corners cost several dB."""


def is_vqrf(path: Path) -> bool:
    """Whether this is what VQRF's official code writes, folder or zip."""
    if path.is_dir():
        return is_vqrf_folder(path)
    return any(name.endswith("metadata.npz") for name in _members(path))


def is_svox2(path: Path) -> bool:
    """Whether this is a checkpoint of svox2."""
    return f"{LINKS}.npy" in _members(path)


def _members(path: Path) -> list[str]:
    """The names in a zip; none where it is no zip."""
    try:
        with open_zip(path) as archive:
            return archive.namelist()
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile, struct.error):
        return []


def is_tensorf(path: Path, max_bytes: int | None = None) -> bool:
    """Whether this is a checkpoint of TensoRF.

    Raises:
      CheckpointError: the file is damaged, or holds anything but numbers.
    """
    return not is_vqrf(path) and not is_svox2(path) and is_tree(load_torch(path, max_bytes))


def is_checkpoint(path: Path) -> bool:
    """Whether this looks like a file of one of the programs that are read here."""
    if path.is_dir():
        return is_vqrf_folder(path)
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) in FOREIGN_STARTS


def load_checkpoint(
    path: Path,
    *,
    corners: Corners | None = None,
    sampling: Sampling = USUAL,
    exact: bool = True,
    max_bytes: int | None = None,
) -> Imported:
    """The field of a checkpoint of any program that is read here; arguments as for `load_dvgo`.

    Raises:
      CheckpointError: the file cannot be used, says itself what an argument says, or takes more memory.

    Safe for untrusted input.
    """
    if is_svox2(path):
        return load_svox2(path, sampling=sampling, max_bytes=max_bytes)
    if is_vqrf(path):
        small = load_vqrf(path, corners=corners, sampling=sampling, max_bytes=max_bytes)
        with reading(path):
            field = expand(small, max_bytes=max_bytes)
        return Imported(field, {"kind": "official VQRF output", "corners": corners or "centred"}, 0)
    if not _expect_tensorf_alone(path, corners, sampling, max_bytes):
        return load_dvgo(path, corners=corners, sampling=sampling, exact=exact, max_bytes=max_bytes)
    with reading(path):
        return import_tensorf(load_tensorf(path, max_bytes).placed(sampling), max_bytes)


def outline_checkpoint(
    path: Path, *, corners: Corners | None = None, sampling: Sampling = USUAL, max_bytes: int | None = None
) -> Outline:
    """What a checkpoint says of its field, of which no grid is made; arguments and errors as for `load_checkpoint`."""
    if is_svox2(path):
        return outline_svox2(path, sampling=sampling, max_bytes=max_bytes)
    if is_vqrf(path):
        return outline_vqrf(path, corners=corners, sampling=sampling, max_bytes=max_bytes)
    if _expect_tensorf_alone(path, corners, sampling, max_bytes):
        return outline_tensorf(path, sampling, max_bytes)
    return outline_dvgo(path, corners=corners, sampling=sampling, max_bytes=max_bytes)


def _expect_tensorf_alone(path: Path, corners: Corners | None, sampling: Sampling, max_bytes: int | None) -> bool:
    """Whether it is a checkpoint of TensoRF, of which nothing is said beside it."""
    if not is_tensorf(path, max_bytes):
        return False
    if corners is not None or replace(sampling, space=None, ndc=None) != USUAL:
        raise CheckpointError(path, "says itself how it is sampled: corners, step, near and scale are for other checkpoints")
    return True


def guess_corners(load: Callable[[Corners], RadianceField], views: Sequence[View]) -> dict[Corners, float]:
    """PSNR in dB of the field under each way its grids may lie, over some rays of the views; the better first.

    Deterministic.
    """
    return _scores(load, get_args(Corners), views)


def guess_scale(load: Callable[[float], RadianceField], views: Sequence[View]) -> dict[float, float]:
    """As `guess_corners`, of svox2's field with its world as it is, and as large as Blender's scenes are."""
    return _scores(load, (1.0, SCALE_OF_BLENDER), views)


def _scores(load: Callable[[Choice], RadianceField], choices: Sequence[Choice], views: Sequence[View]) -> dict[Choice, float]:
    origins, directions, targets = RayPool(views).sample(GUESS_RAYS, seed=(0,)).arrays
    scores: dict[Choice, float] = {}
    for choice in choices:
        rgb = select().render_rays(load(choice).volume(), origins, directions)[0]
        scores[choice] = float(-10 * np.log10(np.mean((rgb - targets[:, :3]) ** 2, dtype=np.float64) + 1e-12))
    return dict(sorted(scores.items(), key=lambda item: -item[1]))
