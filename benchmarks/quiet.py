"""Imports TensorFlow and MLflow without their messages, and what is measured with them."""

import logging
import os
import warnings

from mlflow_ckpt._cli.quiet import without_native_messages

_SETTINGS = {
    "KERAS_BACKEND": "tensorflow",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING": "false",
    # Do not measure the progress bars of uploads.
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # Suppresses "View run … at: http://…" after each run.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


def start() -> None:
    """Import the frameworks, so that no variant's first save includes an import."""
    os.environ.update(_SETTINGS)
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    os.environ.pop("MLFLOW_RUN_ID", None)
    warnings.simplefilter("ignore")
    with without_native_messages():
        import keras
        import mlflow.keras
        import mlflow.tensorflow  # noqa: F401

        keras.ops.zeros(())
    for name in ("absl", "alembic", "mlflow", "tensorflow"):
        logging.getLogger(name).setLevel(logging.ERROR)
