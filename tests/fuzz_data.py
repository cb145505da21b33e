"""Damaged datasets of every layout: each is read, or refused in one line, soon and in little memory.

    python tests/fuzz_data.py 20000 [SEED]

makes as many mutants of each layout. A mutant has a few of its lists and models damaged, and now and then a photo or a mask:
bytes flipped, cut off or put in; numbers replaced by such that mean trouble; values of JSON replaced by others; a file turned
into a link that leads out, or into a folder. Beside `SceneError` in one line nothing may be raised, no mutant may take
`MAX_SECONDS`, and all of them together stay below `MAX_BYTES` of address space.
"""

from __future__ import annotations

import json
import random
import re
import resource
import shutil
import struct
import sys
import tempfile
import time
import traceback
import unicodedata
import warnings
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from unittest.mock import patch

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent / "data"))
from layouts import WRITERS, original_of

from vqrf.data import photos
from vqrf.data.builtin import built_in_scene
from vqrf.data.colmap import list_observations
from vqrf.data.listing import NOT_IN_NAMES, SceneError
from vqrf.data.load import load_scene
from vqrf.data.scene import save_scene

MAX_SECONDS = 10.0
"""Of CPU, as the machine may be busy."""

MAX_BYTES = 3 << 30
MAX_LINE = 1000
"""Characters of a message, paths included."""

PICTURES = (".png", ".jpg")
SHARED_MEMORY = Path("/dev/shm")
"""Mutants are written there where there is such: on a disk, writing them took half of the time."""


TROUBLE = ["nan", "inf", "-inf", "0", "-1", "1e308", "-1e308", "1e-308", "9" * 20, "2147483648", "1e9", "0.5", "x"]
TROUBLE += ["\u202e", "../../x", "/etc/passwd"]
STRANGE: list[object] = [
    None,
    True,
    [],
    {},
    "",
    "x",
    "../x",
    -1,
    0,
    1e308,
    float("nan"),
    10**30,
    [[]],
    {"a": 1},
    "\0",
    [1] * 50,
]
KEYS = ["k1", "k4", "cx", "w", "h", "fl_x", "camera_model", "is_fisheye", "time", "mask_path", "near", "far", "lens", "x\ny"]


def damaged_bytes(data: bytes, dice: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(dice.randint(1, 4)):
        at = dice.randrange(len(out) + 1)
        kind = dice.randrange(4)
        if kind == 0 and out:
            out[at % len(out)] = dice.randrange(256)
        elif kind == 1:
            del out[at:]
        elif kind == 2:
            out[at:at] = bytes(dice.choices([0, 255, 1, 127, 128], k=dice.choice([1, 4, 8, 100])))
        else:
            out[at : at + 8] = dice.choice([b"\xff" * 8, bytes(8), b"\0\0\0\0\0\0\xf0\x7f", b"\0\0\x20\0\0\0\0\0"])
    return bytes(out)


def near_number(word: str, dice: random.Random) -> str:
    """A number that may well be read: a little off, or much; other words as they are."""
    try:
        value = float(word)
    except ValueError:
        return word
    value *= dice.choice([1 + 1e-7, 0.999, 1.5, -1, 1e-3, 1e3, 1e6])
    return str(round(value)) if re.fullmatch(r"-?\d+", word) and abs(value) < 1e15 else repr(value)


def damaged_text(data: bytes, dice: random.Random) -> bytes:
    text = data.decode("utf-8", "replace")
    found = list(re.finditer(r"[-+.\w]+", text))
    is_gentle = dice.random() < 0.4
    for word in sorted(dice.sample(found, min(len(found), dice.randint(1, 3))), key=lambda match: -match.start()):
        new = near_number(word.group(), dice) if is_gentle else dice.choice(TROUBLE)
        text = text[: word.start()] + new + text[word.end() :]
    if is_gentle:
        return text.encode("utf-8", "replace")
    lines = text.split("\n")
    if dice.random() < 0.3:
        lines.insert(dice.randrange(len(lines) + 1), dice.choice(lines))
    if dice.random() < 0.3:
        del lines[dice.randrange(len(lines))]
    return "\n".join(lines).encode("utf-8", "replace")


def damaged_json(data: bytes, dice: random.Random) -> bytes:
    tree = json.loads(data)
    for _ in range(dice.randint(1, 3)):
        place = tree
        while isinstance(place, dict | list) and place:
            key = dice.choice(list(place)) if isinstance(place, dict) else dice.randrange(len(place))
            if dice.random() < 0.4 or not isinstance(place[key], dict | list):
                place[key] = deepcopy(dice.choice(STRANGE))
                break
            place = place[key]
        if isinstance(place, dict) and dice.random() < 0.4:
            place[dice.choice(KEYS)] = deepcopy(dice.choice(STRANGE))
    return json.dumps(tree).encode("utf-8", "surrogatepass")


def damages_of(file: Path) -> list[Callable[[bytes, random.Random], bytes]]:
    """What suits a file's kind, and bytes for all."""
    if file.suffix == ".json":
        return [damaged_json, damaged_json, damaged_text, damaged_bytes]
    return [damaged_text, damaged_text, damaged_bytes] if file.suffix == ".txt" else [damaged_bytes]


def enrich(layout: str, folder: Path) -> None:
    """Add what a layout may have and the writers leave out: points, masks, a photo as phones write it."""
    if layout == "transforms":
        path = folder / "transforms.json"
        tree = json.loads(path.read_text())
        for i, frame in enumerate(tree["frames"]):
            mask = folder / "masks" / f"{i}.png"
            mask.parent.mkdir(exist_ok=True)
            Image.fromarray(np.full((8, 8), 255, np.uint8)).save(mask)
            frame |= {"mask_path": f"masks/{i}.png", "fl_x": tree["fl_x"] + i}
        photo = folder / tree["frames"][0]["file_path"]
        exif = Image.Exif()
        exif[0x0112] = 3
        Image.open(photo).convert("RGB").save(photo.with_suffix(".jpg"), exif=exif)
        photo.unlink()
        path.write_text(json.dumps(tree))
    elif layout == "colmap text":
        lines = [f"{i} {i % 3 - 1} {i % 2} 0.5 10 20 30 0.7 100 0 99 1 98 2" for i in range(1, 9)]
        (folder / "sparse" / "0" / "points3D.txt").write_text("\n".join(lines) + "\n")
    elif layout == "colmap binary":
        rows = [struct.pack("<Q3d3BdQ6I", i, i % 3 - 1, i % 2, 0.5, 1, 2, 3, 0.7, 3, 0, 0, 1, 1, 2, 2) for i in range(1, 9)]
        (folder / "sparse" / "1" / "points3D.bin").write_bytes(struct.pack("<Q", len(rows)) + b"".join(rows))


def damage(file: Path, whole: bytes, dice: random.Random) -> None:
    """Put something else in the place of a file."""
    if dice.random() < 0.03:
        file.unlink()
        if dice.random() < 0.3:
            file.mkdir()
        elif dice.random() < 0.8:
            file.symlink_to(dice.choice(["/etc/passwd", "/", str(file), "nowhere", "/dev/zero"]))
        return
    file.write_bytes(dice.choice(damages_of(file))(whole, dice))


def restore(file: Path, whole: bytes) -> None:
    if file.is_symlink() or file.is_dir():
        file.rmdir() if file.is_dir() and not file.is_symlink() else file.unlink()
    file.write_bytes(whole)


def try_one(folder: Path, name: str) -> str:
    """Read a mutant; says how it ended. Raises AssertionError where that is not right."""
    start = time.process_time()
    try:
        load_scene(folder, max_bytes=1 << 28)
        list_observations(folder)
        ending = "read"
    except SceneError as error:
        line = str(error)
        controls = [c for c in line if unicodedata.category(c) in NOT_IN_NAMES]  # of the others, a terminal gets escapes
        assert not controls and len(line) < MAX_LINE, f"{name}: {line!a}"
        ending = "refused"
    assert time.process_time() - start < MAX_SECONDS, f"{name}: took {time.process_time() - start:.1f} s"
    return ending


def fuzz(n: int, seed: int = 0) -> dict[str, dict[str, int]]:
    """Make `n` mutants of each layout; returns how many were read and refused, and were wrong: did what they may not."""
    endings: dict[str, dict[str, int]] = {}
    shared = SHARED_MEMORY if SHARED_MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(dir=shared) as temporary, patch.object(photos, "READ_THREADS", 1):
        base = Path(temporary)
        save_scene(built_in_scene(n_train=3, n_test=1, side=8), base / "original")
        original = original_of(base / "original", 8, 8, {"train": 1, "test": 1})
        for layout, write in WRITERS.items():
            folder = base / layout
            write(original, folder)
            enrich(layout, folder)
            whole = {file: file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}
            lists = [file for file in whole if file.suffix not in PICTURES]
            pictures = [file for file in whole if file.suffix in PICTURES]
            endings[layout] = {"read": 0, "refused": 0, "wrong": 0}
            for i in range(n):
                dice = random.Random(f"{seed} {layout} {i}")
                files = pictures if dice.random() < 0.1 else lists
                changed = dice.sample(files, dice.choice([1, 1, 1, min(2, len(files))]))
                for file in changed:
                    damage(file, whole[file], dice)
                try:
                    endings[layout][try_one(folder, f"{layout} {i}")] += 1
                except Exception:
                    kept = Path(tempfile.mkdtemp(prefix="fuzz-data-"))
                    shutil.copytree(folder, kept, symlinks=True, dirs_exist_ok=True)
                    print(f"{layout}, mutant {i} of seed {seed}: kept in {kept}", file=sys.stderr)
                    traceback.print_exc()
                    endings[layout]["wrong"] += 1
                for file in changed:
                    restore(file, whole[file])
    return endings


def main() -> None:
    warnings.simplefilter("error")
    resource.setrlimit(resource.RLIMIT_AS, (MAX_BYTES, MAX_BYTES))
    n, seed = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    endings = fuzz(n, seed)
    for layout, counts in endings.items():
        print(f"{layout}: {counts['read']} read, {counts['refused']} refused, {counts['wrong']} wrong")
    sys.exit(any(counts["wrong"] for counts in endings.values()))


if __name__ == "__main__":
    main()
