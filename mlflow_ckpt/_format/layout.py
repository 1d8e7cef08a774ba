"""Names of a checkpoint's files and directories (docs/format.md)."""

from __future__ import annotations

import re
from dataclasses import dataclass

CHECKPOINTS_DIR = "checkpoints"

MANIFEST = "manifest.json"
# Next to the checkpoints' directories: a cache of all their manifests.
INDEX = "manifests.json"
# Also there: the run's report (docs/report.md).
REPORT = "report.html"
FINGERPRINT = "fingerprint.json"
TRAINING_STATE = "training_state.json"
TRAINING_ARRAYS = "training_state.npz"

ARCHITECTURE_JSON = "architecture.json"
ARCHITECTURE_YAML = "architecture.yaml"
WEIGHTS = "model.weights.h5"

FULL_KERAS = "data/model.keras"
FULL_H5 = "data/model.h5"
# Keras's name of the weights file inside a `.keras` archive.
WEIGHTS_IN_ARCHIVE = "model.weights.h5"

MLMODEL = "MLmodel"
# The signature of the manifest and its files, if the checkpoint is signed.
SIGNATURE = "model.sig"

# Files of every checkpoint, in addition to its manifest.
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
        unit: `"epoch"` if saved at the end of an epoch, `"step"` if saved within one.
        number: Completed epochs, or `optimizer.iterations`.
    """

    unit: str
    number: int

    def __str__(self) -> str:
        """Return the directory name, zero-padded so that names sort in training order."""
        width = 4 if self.unit == "epoch" else 8
        return f"{self.unit}_{self.number:0{width}d}"

    @classmethod
    def parse(cls, text: str) -> CheckpointName | None:
        """Parse a directory name; None if it is not a checkpoint's name."""
        match = _NAME.fullmatch(text)
        if match is None:
            return None
        name = cls(match["unit"], int(match["number"]))
        # Only the padded spelling counts, so that a checkpoint has one possible directory.
        return name if str(name) == text else None


def artifact_path(name: str) -> str:
    """Return the run-relative artifact path of the checkpoint `name`."""
    return f"{CHECKPOINTS_DIR}/{name}"


def claim_name(token: str) -> str:
    """Return the name of the file that marks a checkpoint's directory as being uploaded."""
    return f"upload-{token}.json"


def is_claim(name: str) -> bool:
    """Whether a file is such a claim, which is not part of the checkpoint."""
    return _CLAIM.fullmatch(name) is not None
