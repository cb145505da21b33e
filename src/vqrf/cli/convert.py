"""Fields that do not come with photos of ours: checkpoints of other programs, fields seen by themselves; the verb `convert`."""

from __future__ import annotations

import math
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from vqrf.cli.dataset import convert_dataset
from vqrf.cli.progress import reading_bar
from vqrf.cli.terminal import NO_LIMITS, LimitFlags, UsageError, is_file_of_ours, load_any, load_compressed, named, say, tell
from vqrf.codec.bitstream import encode
from vqrf.codec.compressed import Compressed, CompressedField
from vqrf.data.llff import is_llff
from vqrf.data.load import is_dataset, load_scene
from vqrf.data.scene import Scene, View
from vqrf.fields.factors import Factors
from vqrf.fields.field import RadianceField, drawing_fault_of
from vqrf.fields.run import FACTORS_FILE, FIELD_FILE, about_of_notes, load_like, load_run
from vqrf.fields.storage import StorageError, save_field
from vqrf.files import write_atomically
from vqrf.geometry import Front, Lattice
from vqrf.interop import (
    FOLDER,
    NOWHERE,
    CheckpointError,
    Corners,
    Imported,
    Sampling,
    bytes_of_dvgo,
    bytes_of_svox2,
    bytes_of_tensorf,
    files_of_vqrf,
    guess_corners,
    guess_scale,
    is_checkpoint,
    is_svox2,
    is_tensorf,
    is_vqrf,
    load_checkpoint,
    load_tensorf,
    load_vqrf,
    ndc_of_llff,
    outline_checkpoint,
    zip_of_vqrf,
)
from vqrf.kernels.similarity import SSIM_WINDOW
from vqrf.memory import OverBudget
from vqrf.rendering.render import own_scene


@dataclass(frozen=True)
class ImportOptions:
    """What a checkpoint of another program leaves out. (One of TensoRF holds all of this.)

    Attributes:
      corners: whether the outer voxels lie on the corners of the box (aligned, as in DirectVoxGO) or half a voxel inside
        (centred, as in VQRF). Without it, vqrf compares both with a photo; if there is none, the kind of the file decides.
      step: distance between samples, in voxels. Without it, that of the official settings: 0.5, or 1 for a forward-facing
        checkpoint of DirectVoxGO.
      near: distance from the camera to the first sample, in world units.
      scale: how much larger the world of the photos is than svox2's: 1.5 if svox2 read a scene of Blender's layout with its
        usual options. Without it, vqrf compares 1.5 and 1 with a photo; if there is none, it is 1.
      space: whether a checkpoint of TensoRF or svox2 is forward-facing (front), which it does not say, or not (box).
      cameras: folder of the photos of a forward-facing checkpoint, in LLFF's layout. Their cameras say where the field lies.
        Without it, --data is that folder.
      contraction: norm by which an unbounded checkpoint of DirectVoxGO contracts what is far. Its releases differ, and its
        files do not say.
    """

    corners: Literal["aligned", "centred"] | None = None
    step: float | None = None
    near: float = 0.0
    scale: float | None = None
    space: Literal["box", "front"] | None = None
    cameras: Path | None = None
    contraction: Literal["inf", "l2"] | None = None


ImportFlags = Annotated[ImportOptions, tyro.conf.arg(name="checkpoint"), tyro.conf.OmitArgPrefixes]
AS_THEY_ARE = ImportOptions()
NO_FRONT = "--cameras: says where a forward-facing checkpoint lies, and {} is none"


def open_checkpoint(
    path: Path,
    flags: ImportOptions,
    *,
    photos: tuple[Path, Literal["train", "test"]] | None = None,
    exact: bool | None = None,
    quiet: bool = False,
) -> Imported:
    """A checkpoint's field; how its grids lie, or svox2's scale, is guessed from one of the photos where it is not given.

    What was guessed, and what was lost, it says on the error stream unless `quiet`.

    Args:
      exact: as of `load_checkpoint`; None: if there is room for it.

    Raises:
      StorageError: the checkpoint cannot be used.
      SceneError: the photos cannot be.
    """
    sampling, corners, is_scaled = sampling_of(path, flags, photos[0] if photos else None), flags.corners, is_svox2(path)
    is_unsaid = (flags.scale if is_scaled else corners) is None and not is_tensorf(path)
    if photos is not None and is_unsaid and outline_checkpoint(path, sampling=sampling).lattice.space is None:
        scene = load_scene(photos[0], splits=(photos[1],), every=sys.maxsize, background="white")
        views = getattr(scene, photos[1])
        if is_scaled:
            sampling, reason = _scaled(path, sampling, views[:1])
        else:
            corners, reason = _guessed(path, sampling, views[:1])
        tell(quiet, f"{path}: {reason}")
    made = _loaded(path, corners, sampling, exact)
    _expect_front(path, flags, made.field.lattice)
    if made.n_cut:
        tell(quiet, f"{path}: its mask cuts {made.n_cut} cells with something in them, which are now in it or not")
    return made


def _loaded(path: Path, corners: Corners | None, sampling: Sampling, exact: bool | None) -> Imported:
    try:
        return load_checkpoint(path, corners=corners, sampling=sampling, exact=exact is not False)
    except CheckpointError as error:
        if exact is not None or not isinstance(error.__cause__, OverBudget):
            raise
    return load_checkpoint(path, corners=corners, sampling=sampling, exact=False)


def load_field_of(
    path: Path, flags: ImportOptions, photos: Path | None, split: Literal["train", "test"], *, quiet: bool
) -> tuple[RadianceField, dict[str, Any], dict[str, int] | None]:
    """As `vqrf.cli.terminal.load_any`, and the same of a checkpoint."""
    expect_of_checkpoint(path, flags)
    if not is_checkpoint(path):
        return load_any(path)
    made = open_checkpoint(path, flags, photos=(photos, split) if photos else None, quiet=quiet)
    return made.field, made.facts, None


def expect_of_checkpoint(path: Path, flags: ImportOptions) -> None:
    """Refuse what is said of a checkpoint where there is none: a file of ours says all of it itself."""
    said = [name for name, value in asdict(flags).items() if value != getattr(AS_THEY_ARE, name)]
    if said and path.exists() and not is_checkpoint(path):
        raise UsageError(f"--{' and --'.join(said)}: said of a checkpoint of another program, and {path} is none")


def sampling_of(path: Path, flags: ImportOptions, photos: Path | None = None) -> Sampling:
    """What the flags say of a checkpoint; where a forward-facing one lies, its photos may.

    Raises:
      StorageError: a flag is out of its range.
      SceneError: there are no cameras in LLFF's layout in the folder that is to have them.
    """
    if not ((flags.step is None or 0 < flags.step < math.inf) and 0 <= flags.near < math.inf):
        raise StorageError(path, f"expected --step above 0 and --near at least 0, got {flags.step} and {flags.near}")
    if flags.cameras is not None and is_vqrf(path):
        raise UsageError(NO_FRONT.format(path))
    scale = 1.0 if flags.scale is None else flags.scale
    if not 0 < scale < math.inf:
        raise StorageError(path, f"expected --scale above 0, got {scale}")
    folder = flags.cameras or (photos if photos is not None and is_llff(photos) else None)
    ndc = ndc_of_llff(folder) if folder is not None else None
    return Sampling(flags.step, flags.near, scale, flags.space, ndc, flags.contraction)


def _expect_front(path: Path, flags: ImportOptions, lattice: Lattice) -> None:
    """Refuse cameras that a checkpoint has no use for."""
    if flags.cameras is not None and not isinstance(lattice.space, Front):
        raise UsageError(NO_FRONT.format(path))


def _scaled(path: Path, sampling: Sampling, views: tuple[View, ...]) -> tuple[Sampling, str]:
    def load(scale: float) -> RadianceField:
        return load_checkpoint(path, sampling=replace(sampling, scale=scale)).field

    (best, best_psnr), (other, other_psnr) = guess_scale(load, views).items()
    return replace(sampling, scale=best), f"its scale is {best}: {best_psnr:.1f} dB on a photo, {other} {other_psnr:.1f} dB"


def _guessed(path: Path, sampling: Sampling, views: tuple[View, ...]) -> tuple[Corners, str]:
    def load(corners: Corners) -> RadianceField:
        return load_checkpoint(path, corners=corners, sampling=sampling, exact=False).field

    (best, best_psnr), (other, other_psnr) = guess_corners(load, views).items()
    return best, f"its corners are {best}: {best_psnr:.1f} dB on a photo, {other} {other_psnr:.1f} dB"


def facts_of_checkpoint(path: Path, flags: ImportOptions) -> dict[str, Any]:
    """What `info` prints of a checkpoint, of which no grid is made for it."""
    sampling = sampling_of(path, flags)
    sampling = replace(sampling, ndc=sampling.ndc or NOWHERE)
    outline = outline_checkpoint(path, corners=flags.corners, sampling=sampling)
    _expect_front(path, flags, outline.lattice)
    return outline.describe()


@dataclass(frozen=True)
class OwnRenders:
    """How to tune without photos, on renders of the field itself (own renders).

    Attributes:
      own: tune on own renders although there are photos. The photos are for scoring alone, so the score shows what this costs.
      own_views: number of own renders.
      own_side: width and height of own renders, in pixels.
      own_below: share of the cameras that look up from below the horizon (+z is up). Photos are rare there, so what only these
        cameras see gets few bytes. 0 removes it, 0.5 treats all sides alike.
    """

    own: bool = False
    own_views: int = 100
    own_side: int = 400
    own_below: float = 0.1


OwnFlags = Annotated[OwnRenders, tyro.conf.arg(name="own render"), tyro.conf.OmitArgPrefixes]
PHOTOS = OwnRenders()


def load_to_compress(
    path: Path, data: Path | None, options: ImportOptions, own: OwnRenders, quiet: bool
) -> tuple[RadianceField, dict[str, Any], Scene]:
    """A field, its notes, and the scene to learn from and be scored with: photos, or the field's own renders.

    The notes say so if it is renders.
    """
    expect_of_checkpoint(path, options)
    if is_checkpoint(path):
        made = open_checkpoint(path, options, photos=(data, "test") if data else None, exact=False, quiet=quiet)
        field, notes = made.field, made.facts
    else:
        if path.is_file() and is_file_of_ours(path):
            raise UsageError(f"{path}: is compressed already; vqrf convert makes a run folder of it, which could be again")
        field, notes = load_run(path)
    photos = None
    if data is not None:
        with reading_bar(quiet) as report:
            photos = load_like(notes, data, ("test",) if own.own else ("train", "test"), report=report)
        if not own.own:
            return field, notes, photos
        field = field.with_background(photos.background)
    if own.own_views < 1 or own.own_side < SSIM_WINDOW:
        raise UsageError(f"expected --own-views at least 1 and --own-side at least {SSIM_WINDOW}")
    if not 0 <= own.own_below <= 1:
        raise UsageError(f"--own-below: expected a share of 0 to 1, got {own.own_below}")
    size = f"{own.own_side}x{own.own_side}"
    say(quiet, f"rendering {own.own_views} views of {size} of the field itself")
    with named(path):
        scene = own_scene(field, own.own_views, own.own_side, own.own_below, about_of_notes(notes))
    if photos is not None:
        scene = replace(scene, test=photos.test, name=photos.name)
    return field, {**notes, "tuned_on": f"{own.own_views} renders of the field, {size}"}, scene


def with_factors(field: RadianceField, path: Path) -> RadianceField:
    """The field with the planes and lines that lie beside it in its run folder, or that its checkpoint holds."""
    made = load_tensorf(factors_file(path, "the preset planes asks for planes and lines"))
    with named(path):
        return replace(field, factors=made.as_planes())


def has_planes(path: Path) -> bool:
    """Whether a run folder or a checkpoint has planes and lines, and not lines alone or voxels.

    Raises:
      CheckpointError: the checkpoint is damaged, or holds anything but numbers.
    """
    source = path / FACTORS_FILE if path.is_dir() else path
    return is_checkpoint(source) and is_tensorf(source) and isinstance(load_tensorf(source).factors, Factors)


def factors_file(path: Path, wish: str) -> Path:
    """The checkpoint of TensoRF in a run folder, or the path itself if it is one.

    Raises:
      StorageError: there is none; it says so after what was wished for.
    """
    source = path / FACTORS_FILE if path.is_dir() else path
    if not is_checkpoint(source) or not is_tensorf(source):
        raise StorageError(path, f"has no factors, and {wish}: only a checkpoint of TensoRF, or a run of tensorf, has some")
    return source


ENDINGS = (
    "the endings are .tar (DirectVoxGO), .npz (svox2), .th (TensoRF), .vqrf, .zip or a folder extreme_saving (VQRF); "
    "a name without one is a run folder; vqrf export writes .ply and .glb"
)
"""What can be written, for who named something else."""


@dataclass(frozen=True)
class Convert:
    """Convert a field into another kind of file. The ending of the second path selects the kind.

    - .tar: a checkpoint of DirectVoxGO.
    - .npz: a checkpoint of svox2; the field must be one of Plenoxels.
    - .th: a checkpoint of TensoRF; the field must be one of TensoRF, or a run of train --base tensorf.
    - .vqrf, .zip, or a folder extreme_saving: a compressed field of vqrf or official VQRF; the input must be compressed too.
    - Any other name: a run folder; for a dataset, a folder with transforms.json and COLMAP's text files.
    """

    field: tyro.conf.Positional[Path]
    """A run folder, .vqrf file, checkpoint of DirectVoxGO, svox2 or TensoRF, official VQRF's folder or zip, or a dataset."""
    out: tyro.conf.Positional[Path]
    """File or folder to write."""
    exact: bool = False
    """Halve the edge of the voxels if the checkpoint's mask cuts cells.
    This gives exactly the same images, from 8 times as many voxels."""
    overwrite: bool = False
    """Replace an output that exists already."""
    options: ImportFlags = AS_THEY_ARE
    limits: LimitFlags = NO_LIMITS

    def run(self) -> None:
        expect_of_checkpoint(self.field, self.options)
        if self.field.is_dir() and not (self.field / FIELD_FILE).exists() and is_dataset(self.field):
            if not self._is_run_folder() and not self.out.is_dir():
                raise UsageError(f"{self.out}: a dataset becomes a folder; give a name without {self.out.suffix or FOLDER}")
            for line in convert_dataset(self.field, self.out, overwrite=self.overwrite):
                say(False, line)
            return
        if self.out.suffix and self._is_run_folder() and not self.out.is_dir():
            raise UsageError(f"{self.out}: {self.out.suffix} is not written; {ENDINGS}")
        target = self.out / FIELD_FILE if self._is_run_folder() else self.out
        if target.exists() and not self.overwrite:
            raise StorageError(self.out, "is there already; give --overwrite")
        if not self.out.resolve().parent.is_dir():
            raise StorageError(self.out, f"there is no folder {self.out.resolve().parent}")
        if self.out.suffix in (".vqrf", ".zip") or self.out.name == FOLDER:
            files = self._compressed_files(self._load_compressed())
        elif self.out.suffix == ".th":
            files = {self.out: self._tensorf_file()}
        else:
            field, notes = self._load_field()
            if self._is_run_folder():
                self.out.mkdir(exist_ok=True)
                save_field(target, field, notes=notes)
                say(False, f"wrote {target}")
                return
            is_npz = self.out.suffix == ".npz"
            data = self._named(lambda: bytes_of_svox2(field) if is_npz else bytes_of_dvgo(field, self.out.stem))
            files = {self.out: data}
        for path, data in files.items():
            path.parent.mkdir(exist_ok=True)
            write_atomically(path, data)
        say(False, f"wrote {self.out}, {sum(map(len, files.values()))} bytes")

    def _is_run_folder(self) -> bool:
        return self.out.suffix not in (".vqrf", ".zip", ".tar", ".npz", ".th") and self.out.name != FOLDER

    def _named(self, make: Any) -> Any:
        """What `make` returns; where it cannot be made, that is the fault of what was asked to be written."""
        try:
            return make()
        except StorageError:
            raise
        except ValueError as error:
            raise StorageError(self.out, f"cannot be made of {self.field}: {error}") from error

    def _compressed_files(self, small: Compressed) -> dict[Path, bytes]:
        if self.out.suffix == ".vqrf":
            return {self.out: self._named(lambda: encode(small))}
        if not isinstance(small, CompressedField):
            raise StorageError(self.field, f"has no codebook, and {self.out.name} would; compress with --preset paper")
        if self.out.suffix == ".zip":
            return {self.out: self._named(lambda: zip_of_vqrf(small))}
        return {self.out / name: data for name, data in self._named(lambda: files_of_vqrf(small)).items()}

    def _tensorf_file(self) -> bytes:
        made = load_tensorf(factors_file(self.field, f"{self.out.name} would"))
        data: bytes = self._named(lambda: bytes_of_tensorf(made, self.out.stem))
        return data

    def _load_compressed(self) -> Compressed:
        small = self._read_compressed()
        if fault := drawing_fault_of(small):
            raise StorageError(self.field, f"cannot be drawn: {fault}")
        return small

    def _read_compressed(self) -> Compressed:
        flags = self.options
        if is_checkpoint(self.field) and is_vqrf(self.field):
            return load_vqrf(self.field, corners=flags.corners, sampling=sampling_of(self.field, flags))
        if self.field.is_dir() or is_checkpoint(self.field):
            raise StorageError(self.field, f"is not compressed, and {self.out.name} would be; use vqrf compress")
        return load_compressed(self.field)[0]

    def _load_field(self) -> tuple[RadianceField, dict[str, Any]]:
        if is_checkpoint(self.field):
            made = open_checkpoint(self.field, self.options, exact=self.exact)
            return made.field, made.facts
        field, notes, _ = load_any(self.field)
        return field, notes
