"""What a training keeps of itself in its run folder until the field is safe, and whose it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vqrf.data.scene import Scene
from vqrf.fields.factors import Factors, LineFactors
from vqrf.fields.field import RadianceField
from vqrf.fields.run import FACTORS_FILE, FIELD_FILE
from vqrf.fields.storage import FIELD_FORMAT, StorageError, load_field, read_header, save_field
from vqrf.files import write_atomically
from vqrf.interop import bytes_of_tensorf, tensorf_of
from vqrf.training.checkpoint import CHECKPOINT_FORMAT, Checkpoint, fingerprint
from vqrf.training.stages import STAGES, TrainConfig
from vqrf.training.workers import is_first

COARSE_FILE = "coarse.safetensors"
CHECKPOINT_FILES = {stage: f"checkpoint-{stage}.safetensors" for stage in STAGES}


@dataclass(frozen=True)
class Run:
    """A run folder, and the fingerprint of the photos and settings that it is of."""

    folder: Path
    fingerprint: str

    @classmethod
    def of(cls, folder: Path, scene: Scene, config: TrainConfig, seed: int) -> Run:
        return cls(folder, fingerprint(scene, {"config": asdict(config), "seed": seed}))

    def is_begun(self) -> bool:
        """Whether the folder keeps something of this training. Reads no more than headers, and changes nothing.

        Raises:
          StorageError: it keeps something of a training with other photos or settings, or something damaged.
        """
        coarse = self.folder / COARSE_FILE
        kept = [path for path in (coarse, *(self.folder / name for name in CHECKPOINT_FILES.values())) if path.exists()]
        for path in kept:
            if path == coarse:
                notes = read_header(path, FIELD_FORMAT).get("notes")
                found = notes.get("fingerprint") if isinstance(notes, dict) else None
            else:
                found = read_header(path, CHECKPOINT_FORMAT).get("fingerprint")
            self._expect(path, found)
        return bool(kept)

    def _expect(self, path: Path, found: object) -> None:
        if found != self.fingerprint:
            raise StorageError(path, "belongs to other images or settings; give --overwrite to start afresh")

    def checkpoint(self, stage: str) -> Checkpoint:
        """Where a stage is saved now and then."""
        return Checkpoint(self.folder / CHECKPOINT_FILES[stage], self.fingerprint)

    def load_coarse(self) -> tuple[RadianceField, dict[str, Any]] | None:
        """The finished coarse stage of a training that was stopped later, and its notes, if there is one.

        Raises:
          StorageError: it is of other photos or settings, or damaged.
        """
        path = self.folder / COARSE_FILE
        if not path.exists():
            return None
        field, notes = load_field(path)
        self._expect(path, notes.get("fingerprint"))
        return field, notes

    def save_coarse(self, field: RadianceField, notes: Mapping[str, Any]) -> None:
        """Keep the finished coarse stage instead of its checkpoint; of several workers one writes."""
        if not is_first():
            return
        save_field(self.folder / COARSE_FILE, field, notes={"fingerprint": self.fingerprint, **notes})
        (self.folder / CHECKPOINT_FILES["coarse"]).unlink(missing_ok=True)


def save_run(
    folder: Path, scene: Scene, field: RadianceField, factors: Factors | LineFactors | None, notes: Mapping[str, Any]
) -> None:
    """Write what a training ends in: the field with its notes and, of factors in a box, a checkpoint of TensoRF before it."""
    if factors is not None and field.lattice.space is None:
        made = tensorf_of(field, factors, scene.far)
        write_atomically(folder / FACTORS_FILE, bytes_of_tensorf(made, Path(FACTORS_FILE).stem))
    save_field(folder / FIELD_FILE, field, notes=dict(notes))
    clear_run(folder)


def clear_run(folder: Path) -> None:
    """Remove what a training kept of itself, as its result is safe or is not wanted."""
    for name in (COARSE_FILE, *CHECKPOINT_FILES.values()):
        (folder / name).unlink(missing_ok=True)
