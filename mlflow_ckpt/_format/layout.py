"""Names of files and directories of a checkpoint (docs/format.md)."""

from __future__ import annotations

import re
from dataclasses import dataclass

CHECKPOINTS_DIR = "checkpoints"

MANIFEST = "manifest.json"
# Beside the checkpoints' directories: a cache of all their manifests.
INDEX = "manifests.json"
# Beside them too: the page of the run (docs/report.md).
REPORT = "report.html"
FINGERPRINT = "fingerprint.json"
TRAINING_STATE = "training_state.json"
TRAINING_ARRAYS = "training_state.npz"

ARCHITECTURE_JSON = "architecture.json"
ARCHITECTURE_YAML = "architecture.yaml"
WEIGHTS = "model.weights.h5"

FULL_KERAS = "data/model.keras"
FULL_H5 = "data/model.h5"
# Name of the weights file inside a `.keras` archive (Keras's own name).
WEIGHTS_IN_ARCHIVE = "model.weights.h5"

MLMODEL = "MLmodel"

# Files that every checkpoint has besides its manifest.
ALWAYS = (ARCHITECTURE_JSON, ARCHITECTURE_YAML, FINGERPRINT, TRAINING_STATE)

FORMS = ("full", "split")
FULL_FORMATS = ("keras", "h5")
FULL_FILES = {"keras": FULL_KERAS, "h5": FULL_H5}

_CLAIM = re.compile(r"upload-[\w-]+\.json")
_NAME = re.compile(r"(?P<unit>epoch|step)_(?P<number>\d{1,18})")


@dataclass(frozen=True)
class CheckpointName:
    """A checkpoint's directory name: `epoch_0003` or `step_00001500`.

    Attributes:
        unit: `"epoch"` for a save at the end of an epoch, `"step"` for one inside an epoch.
        number: Completed epochs, or `optimizer.iterations`.
    """

    unit: str
    number: int

    def __str__(self) -> str:
        """Return the directory name, padded so that names sort in order of training."""
        width = 4 if self.unit == "epoch" else 8
        return f"{self.unit}_{self.number:0{width}d}"

    @classmethod
    def parse(cls, text: str) -> CheckpointName | None:
        """Return the name that `text` spells, or None if it is not a checkpoint's name."""
        match = _NAME.fullmatch(text)
        if match is None:
            return None
        name = cls(match["unit"], int(match["number"]))
        # Only the padded spelling is a checkpoint: each has exactly one directory.
        return name if str(name) == text else None


def artifact_path(name: str) -> str:
    """Return the run-relative artifact path of the checkpoint called `name`."""
    return f"{CHECKPOINTS_DIR}/{name}"


def claim_name(token: str) -> str:
    """Return the file that a process leaves in a checkpoint's directory while it uploads it."""
    return f"upload-{token}.json"


def is_claim(name: str) -> bool:
    """Whether a file's name is that of such a claim; it is no part of the checkpoint."""
    return _CLAIM.fullmatch(name) is not None
