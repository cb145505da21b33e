"""Where plain photos were taken: structure from motion by pycolmap, on the CPU, resumable.

Notation. Keypoints are places of a photo that look like nothing around them (SIFT); two photos are matched by keypoints that
look alike; photos are registered one after the other, and points and cameras are refined together. What comes out is a COLMAP
model in a world of its own: its origin, its directions and its scale mean nothing.

Everything that was worked out lies in `WORK_FOLDER` until the model is written: a run that was killed goes on from there.
Keypoints and matches are kept photo by photo and pair by pair; mapping, which takes the least, begins anew.

Source: Schönberger and Frahm, "Structure-from-Motion Revisited", CVPR 2016.
"""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

from vqrf.data.images import photo_facts
from vqrf.data.listing import SceneError

IMAGES_FOLDER, MODEL_FOLDER, WORK_FOLDER = "images", "sparse/0", "sfm"
DATABASE, SETTINGS, PAIRS = "database.db", "settings.json", "pairs.txt"

FEWEST_PHOTOS = 3
FEWEST_KEYPOINTS = 100
"""Of a photo, on average: COLMAP wants as many matches of the two photos it begins with."""

USUAL_MODEL_PHOTOS = 10
"""COLMAP drops models of fewer photos, unless there are hardly more at all."""

PHOTOS_PER_CALL, PAIRS_PER_CALL = 16, 300
"""What COLMAP is asked at a time: between two calls there is a word on the way. While it works, its database cannot be read."""

Lens = Literal["simple-radial", "opencv", "pinhole", "fisheye"]
LENSES: dict[Lens, str] = {
    "simple-radial": "SIMPLE_RADIAL",
    "opencv": "OPENCV",
    "pinhole": "PINHOLE",
    "fisheye": "OPENCV_FISHEYE",
}


@dataclass(frozen=True)
class SfmConfig:
    """How to look for poses.

    Attributes:
      lens: what the photos were taken through; all of one size and focal length share one.
      max_side: pixels; larger photos are made smaller to find keypoints, which are placed to a fraction of a pixel anyway.
      max_keypoints: of a photo.
      n_exhaustive: up to so many photos every one is matched with every other; of more, each with its `overlap` next ones in
        order, and `n_keys` evenly spread ones with each other, so that a walk around a thing closes.
      seed: of everything random.
      threads: 0 for all CPUs.
    """

    lens: Lens = "simple-radial"
    max_side: int = 1600
    max_keypoints: int = 8192
    n_exhaustive: int = 100
    overlap: int = 10
    n_keys: int = 60
    seed: int = 0
    threads: int = 0


@dataclass(frozen=True)
class Registration:
    """What came of it.

    Attributes:
      registered, lost: names of the photos with and without a pose, in order.
      keypoints: of each photo, by name.
      n_points: in the model.
      error: mean reprojection error, pixels.
      cameras: for people: the lens, its size, and what was found of it.
      others: of photos that hang together, and not with the rest: how many in each such group.
    """

    registered: tuple[str, ...]
    lost: tuple[str, ...]
    keypoints: dict[str, int]
    n_points: int
    error: float
    cameras: tuple[str, ...]
    others: tuple[int, ...]


Report = Callable[[str, int, int], None]
"""Called with the stage's name, what is done and what there is to do of it."""

STAGES = ("keypoints", "matches", "cameras")


def pairs_of(n: int, config: SfmConfig) -> list[tuple[int, int]]:
    """Which of `n` photos in order to match with each other: pairs i < j, sorted, each once.

    >>> pairs_of(4, SfmConfig(n_exhaustive=3, overlap=1, n_keys=2))
    [(0, 1), (0, 3), (1, 2), (2, 3)]
    """
    if n <= config.n_exhaustive:
        return list(combinations(range(n), 2))
    near = {(i, j) for i in range(n) for j in range(i + 1, min(i + config.overlap + 1, n))}
    n_keys = min(config.n_keys, n)
    keys = sorted({round(k * (n - 1) / max(n_keys - 1, 1)) for k in range(n_keys)})
    return sorted(near | set(combinations(keys, 2)))


def find_poses(folder: Path, config: SfmConfig, report: Report) -> Registration:
    """Work out the cameras of the photos in `folder/images` and write them to `folder/sparse/0` as a COLMAP model.

    Deterministic with a given seed. Goes on from where a run with the same photos and settings was killed.

    Raises:
      SceneError: there are too few photos, nothing is found in them, they do not hang together, or `folder` holds the work of
        other photos or settings.
      ModuleNotFoundError: pycolmap is not installed.
    """
    pycolmap = _imported()
    images, work = folder / IMAGES_FOLDER, folder / WORK_FOLDER
    names = sorted(path.relative_to(images).as_posix() for path in images.rglob("*") if path.is_file())
    if len(names) < FEWEST_PHOTOS:
        raise SceneError(images, f"holds {len(names)} photos; from fewer than {FEWEST_PHOTOS} no poses can be found")
    pycolmap.set_random_seed(config.seed)
    _begin(work, names, config)
    database = work / DATABASE
    _find_keypoints(images, database, names, config, report)
    found = dict(_rows(database, "SELECT name, rows FROM images LEFT JOIN keypoints USING (image_id)"))
    keypoints = {name: found.get(name) or 0 for name in names}
    if sum(keypoints.values()) < FEWEST_KEYPOINTS * len(names):
        few = f"the photos show too little that can be found again: {sum(keypoints.values()) // len(names)} keypoints each"
        raise SceneError(images, f"{few}; see that they are sharp and large, and that something with a pattern is in view")
    _match(work, names, config, report)
    models = _map(images, work, len(names), config, report)
    return _keep(folder, models, names, keypoints)


def _imported() -> Any:
    """pycolmap, quiet. It takes SIGTERM for itself when it is imported: that goes back to whoever has it."""
    import pycolmap

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
    pycolmap.logging.minloglevel = int(pycolmap.logging.Level.FATAL.value)
    return pycolmap


def _begin(work: Path, names: Sequence[str], config: SfmConfig) -> None:
    """Make the folder of what is worked out, or see that what is in it is of the same photos and settings."""
    said = json.dumps({"photos": list(names), "settings": {**asdict(config), "threads": 0}}, indent=2)
    settings = work / SETTINGS
    if not settings.exists():
        work.mkdir(parents=True, exist_ok=True)
        settings.write_text(said)
    elif settings.read_bytes() != said.encode():
        raise SceneError(work, "belongs to other photos or settings; give --overwrite to start afresh")


def _find_keypoints(images: Path, database: Path, names: Sequence[str], config: SfmConfig, report: Report) -> None:
    import pycolmap

    reader = pycolmap.ImageReaderOptions()
    reader.camera_model = LENSES[config.lens]
    if not database.exists():
        made = database.with_suffix(".new")
        made.unlink(missing_ok=True)
        pycolmap.Database.open(made).close()
        for group in _by_lens(images, names):  # in order, so that their numbers are the same every time
            pycolmap.import_images(made, images, pycolmap.CameraMode.SINGLE, image_names=group, options=reader)
        made.rename(database)
    options = pycolmap.FeatureExtractionOptions()
    options.use_gpu, options.num_threads, options.max_image_size = False, config.threads or -1, config.max_side
    options.sift.max_num_features = config.max_keypoints
    for first in range(0, len(names), PHOTOS_PER_CALL):

        def extract(token: Any, some: Sequence[str] = names[first : first + PHOTOS_PER_CALL]) -> None:
            pycolmap.extract_features(
                database,
                images,
                image_names=some,
                reader_options=reader,
                extraction_options=options,
                device=pycolmap.Device.cpu,
                cancellation_token=token,
            )

        _watched(extract, images)
        report("keypoints", _count(database, "keypoints"), len(names))


def _by_lens(images: Path, names: Sequence[str]) -> list[list[str]]:
    """The photos in groups of one size and one focal length: each group has one camera."""
    groups: dict[Any, list[str]] = {}
    for name in names:
        groups.setdefault(photo_facts(images / name), []).append(name)
    return list(groups.values())


def _match(work: Path, names: Sequence[str], config: SfmConfig, report: Report) -> None:
    import pycolmap

    pairs = pairs_of(len(names), config)
    matching = pycolmap.FeatureMatchingOptions()
    matching.use_gpu, matching.num_threads = False, config.threads or -1
    verification = pycolmap.TwoViewGeometryOptions()
    verification.ransac.random_seed = config.seed
    pairing = pycolmap.ImportedPairingOptions()
    pairing.match_list_path = work / PAIRS

    def match(token: Any) -> None:
        pycolmap.match_image_pairs(
            work / DATABASE,
            matching_options=matching,
            pairing_options=pairing,
            verification_options=verification,
            device=pycolmap.Device.cpu,
            cancellation_token=token,
        )

    done = set(_rows(work / DATABASE, "SELECT pair_id FROM two_view_geometries"))
    numbers = dict(_rows(work / DATABASE, "SELECT name, image_id FROM images"))
    left = [(i, j) for i, j in pairs if (pycolmap.image_pair_to_pair_id(numbers[names[i]], numbers[names[j]]),) not in done]
    for first in range(0, len(left), PAIRS_PER_CALL):
        some = left[first : first + PAIRS_PER_CALL]
        (work / PAIRS).write_text("".join(f"{names[i]} {names[j]}\n" for i, j in some))
        _watched(match, work)
        report("matches", len(pairs) - len(left) + first + len(some), len(pairs))


def _map(images: Path, work: Path, n_photos: int, config: SfmConfig, report: Report) -> list[Any]:
    """The models, that with the most photos first."""
    import pycolmap

    options = pycolmap.IncrementalPipelineOptions()
    options.num_threads = 1  # of more the sums depend on who is first
    options.min_model_size = min(USUAL_MODEL_PHOTOS, max(FEWEST_PHOTOS, n_photos // 2))
    options.ba_use_gpu = False
    for random in (options, options.mapper, options.triangulation):
        random.random_seed = config.seed
    calls = 0

    def count() -> None:
        nonlocal calls
        calls += 1
        report("cameras", min(calls + 1, n_photos), n_photos)  # the first call is for two

    def reconstruct(token: Any) -> Any:
        (work / "models").mkdir(exist_ok=True)
        return pycolmap.incremental_mapping(
            work / DATABASE,
            images,
            work / "models",
            options=options,
            initial_image_pair_callback=count,
            next_image_callback=count,
            cancellation_token=token,
        )

    models = sorted(_watched(reconstruct, work).values(), key=lambda model: -model.num_reg_images())
    if not models or models[0].num_reg_images() < FEWEST_PHOTOS:
        few = f"no {FEWEST_PHOTOS} photos could be put together"
        raise SceneError(
            images, f"{few}; take more of them, each a small step from the one before, of something that stands still"
        )
    return models


def _keep(folder: Path, models: list[Any], names: Sequence[str], keypoints: dict[str, int]) -> Registration:
    """Write the largest model, and say what is in it."""
    model = models[0]
    registered, *others = ({image.name for image in model.images.values() if image.has_pose} for model in models)
    ready, target = folder / WORK_FOLDER / "chosen", folder / MODEL_FOLDER
    shutil.rmtree(ready, ignore_errors=True)
    ready.mkdir()
    model.write(ready)
    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(exist_ok=True)
    ready.rename(target)
    shutil.rmtree(folder / WORK_FOLDER)
    return Registration(
        registered=tuple(name for name in names if name in registered),
        lost=tuple(name for name in names if name not in registered),
        keypoints=keypoints,
        n_points=model.num_points3D(),
        error=model.compute_mean_reprojection_error(),
        cameras=tuple(_in_words(camera) for camera in model.cameras.values()),
        others=tuple(n for other in others if (n := len(other - registered)) >= FEWEST_PHOTOS),
    )


def _in_words(camera: Any) -> str:
    numbers = zip(camera.params_info.split(","), camera.params, strict=True)
    said = ", ".join(f"{name.strip()} {value:.5g}" for name, value in numbers)
    return f"{camera.model.name} {camera.width}x{camera.height}: {said}"


def _watched(call: Callable[[Any], Any], path: Path) -> Any:
    """What `call` returns, in another thread, so that an interruption reaches this one, and ends the call too."""
    import pycolmap

    token = pycolmap.CancellationToken()
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(call, token)
        try:
            return future.result()
        except (RuntimeError, ValueError) as error:
            raise SceneError(path, f"COLMAP: {' '.join(str(error).split())}") from error
        except BaseException:
            token.cancel()
            raise


def _count(database: Path, table: str) -> int:
    return int(_rows(database, f"SELECT count(*) FROM {table}")[0][0])


def _rows(database: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True, timeout=10)) as connection:
        return connection.execute(query).fetchall()
