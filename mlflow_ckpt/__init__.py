"""Keras checkpoints in MLflow: complete, proven by hash, and readable without this package.

    with mlflow.start_run():
        model.fit(x, y, epochs=5, callbacks=[mlflow_ckpt.MlflowCheckpoint()])
    model = mlflow_ckpt.load_model(run_id, "best")

Names are imported when they are first used, so that `import mlflow_ckpt` loads neither MLflow nor
Keras and its backend.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mlflow_ckpt import errors
from mlflow_ckpt._version import __version__

if TYPE_CHECKING:
    from mlflow_ckpt.callback import MlflowCheckpoint
    from mlflow_ckpt.comparing import diff
    from mlflow_ckpt.format.diff import Difference
    from mlflow_ckpt.format.fingerprint import Fingerprint
    from mlflow_ckpt.format.retention import AnyOf, BestN, EveryN, LatestN, RetentionPolicy
    from mlflow_ckpt.format.verification import VerificationResult
    from mlflow_ckpt.importing import ImportedFile, import_checkpoints
    from mlflow_ckpt.loaders import (
        fingerprint,
        get_checkpoint,
        list_checkpoints,
        load_architecture,
        load_model,
        load_weights,
        verify,
    )
    from mlflow_ckpt.model.callback_state import register_callback_state
    from mlflow_ckpt.model.epoch_dataset import EpochDataset
    from mlflow_ckpt.model.filling import LoadReport
    from mlflow_ckpt.registration import register
    from mlflow_ckpt.resuming import ResumePoint, restore, resume
    from mlflow_ckpt.retention import prune
    from mlflow_ckpt.tracking.pruning import Pruned
    from mlflow_ckpt.tracking.registering import Registered
    from mlflow_ckpt.tracking.selecting import Checkpoint

__all__ = [
    "AnyOf",
    "BestN",
    "Checkpoint",
    "Difference",
    "EpochDataset",
    "EveryN",
    "Fingerprint",
    "ImportedFile",
    "LatestN",
    "LoadReport",
    "MlflowCheckpoint",
    "Pruned",
    "Registered",
    "ResumePoint",
    "RetentionPolicy",
    "VerificationResult",
    "__version__",
    "diff",
    "errors",
    "fingerprint",
    "get_checkpoint",
    "import_checkpoints",
    "list_checkpoints",
    "load_architecture",
    "load_model",
    "load_weights",
    "prune",
    "register",
    "register_callback_state",
    "restore",
    "resume",
    "verify",
]

_HOME = {
    "AnyOf": "mlflow_ckpt.format.retention",
    "BestN": "mlflow_ckpt.format.retention",
    "Checkpoint": "mlflow_ckpt.tracking.selecting",
    "Difference": "mlflow_ckpt.format.diff",
    "EpochDataset": "mlflow_ckpt.model.epoch_dataset",
    "EveryN": "mlflow_ckpt.format.retention",
    "Fingerprint": "mlflow_ckpt.format.fingerprint",
    "ImportedFile": "mlflow_ckpt.importing",
    "LatestN": "mlflow_ckpt.format.retention",
    "LoadReport": "mlflow_ckpt.model.filling",
    "MlflowCheckpoint": "mlflow_ckpt.callback",
    "Pruned": "mlflow_ckpt.tracking.pruning",
    "Registered": "mlflow_ckpt.tracking.registering",
    "ResumePoint": "mlflow_ckpt.resuming",
    "RetentionPolicy": "mlflow_ckpt.format.retention",
    "VerificationResult": "mlflow_ckpt.format.verification",
    "diff": "mlflow_ckpt.comparing",
    "import_checkpoints": "mlflow_ckpt.importing",
    "prune": "mlflow_ckpt.retention",
    "register": "mlflow_ckpt.registration",
    "register_callback_state": "mlflow_ckpt.model.callback_state",
    "restore": "mlflow_ckpt.resuming",
    "resume": "mlflow_ckpt.resuming",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME.get(name, "mlflow_ckpt.loaders")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
