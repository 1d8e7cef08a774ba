"""Logs what is needed to repeat and assess a run, in addition to metrics and checkpoints."""

import io
import json
import platform
import shlex
import warnings
from importlib.metadata import version
from typing import Any

import keras
import mlflow
from mlflow.data.dataset_source_registry import resolve_dataset_source
from mlflow.data.numpy_dataset import from_numpy
from mlflow.entities import Run

from projects.cifar10.data import Dataset, digest
from projects.cifar10.errors import UserError

PACKAGES = ("h5py", "keras", "mlflow", "numpy", "pillow", "scikit-learn", "tensorflow")
# Tags: the data set that `auto` chose, and why; parameters changed on resuming; the checkpoint that
# an evaluation or prediction used.
DATASET_TAG = "mlflow_ckpt.dataset"
DATASET_WHY_TAG = "mlflow_ckpt.dataset_why"
CHANGED_TAG = "mlflow_ckpt.changed_parameters"
SOURCE_RUN_TAG = "mlflow_ckpt.source_run"
SOURCE_CHECKPOINT_TAG = "mlflow_ckpt.source_checkpoint"


def log_parameters(run: Run, parameters: dict[str, Any], *, resumed: bool = False) -> None:
    """Log the parameters that `run` does not have yet.

    `mlflow run` has already logged those of its entry point, as shell-quoted text.

    Args:
        run: The active run.
        parameters: Values of the parameters by name.
        resumed: Whether the training was resumed. Then parameters may differ from those of the run,
            which MLflow cannot change; a tag records the new values.

    Raises:
        UserError: If the run has another value and `resumed` is False, as it is the run of another
            training.
    """
    changed = {
        name: value
        for name, value in parameters.items()
        if name in run.data.params and not _same(run.data.params[name], value)
    }
    if changed and resumed:
        mlflow.set_tag(CHANGED_TAG, json.dumps(changed))
    for name, value in ({} if resumed else changed).items():
        raise UserError(
            f"The run {run.info.run_id} already holds another value of {name}: expected "
            f"{run.data.params[name]}. Received: {name}={value}; unset MLFLOW_RUN_ID to train "
            "in a new run"
        )
    mlflow.log_params({k: v for k, v in parameters.items() if k not in run.data.params})


def _same(logged: str, value: Any) -> bool:
    """Whether `logged` is the text of `value`: `1e-3` is 0.001, `'my data.npz'` has quotes."""
    text = plain_text(logged)
    try:
        return bool(type(value)(text) == value)
    except ValueError:
        return False


def plain_text(logged: str) -> str:
    """Return a parameter's value, which `mlflow run` logs shell-quoted."""
    return " ".join(shlex.split(logged))


def log_dataset(dataset: Dataset) -> None:
    """Log both halves of the data set, its class names, and why it was chosen."""
    mlflow.set_tags({DATASET_TAG: dataset.reference, DATASET_WHY_TAG: dataset.why})
    log_split(dataset, "train")
    log_split(dataset, "eval")
    mlflow.log_text(json.dumps(dataset.class_names, indent=2), "class_names.json")


def log_split(dataset: Dataset, context: str) -> None:
    """Log one half of the data set as an input of the run.

    Args:
        dataset: The data set.
        context: `train` or `eval`.
    """
    x, y = (
        (dataset.x_train, dataset.y_train)
        if context == "train"
        else (dataset.x_test, dataset.y_test)
    )
    with warnings.catch_warnings():
        # MLflow warns for every path, as it registers local files twice.
        warnings.filterwarnings("ignore", message="The specified dataset source can be interpreted")
        source = resolve_dataset_source(dataset.source)
    # MLflow's own digest covers only the first 10,000 pixels.
    logged = from_numpy(x, source=source, targets=y, name=dataset.name, digest=digest(x, y))
    mlflow.log_input(logged, context=context)


def log_model_summary(model: keras.Model) -> None:
    """Log Keras's model summary as `model_summary.txt`."""
    table = io.StringIO()
    model.summary(print_fn=lambda line, *_, **__: table.write(f"{line}\n"), line_length=80)
    mlflow.log_text(table.getvalue(), "model_summary.txt")


def log_environment() -> None:
    """Log `environment.json`: versions of Python and packages, Keras backend, platform."""
    mlflow.log_dict(
        {
            "python": platform.python_version(),
            "platform": platform.platform(),
            "backend": keras.backend.backend(),
            "packages": {name: version(name) for name in PACKAGES},
        },
        "environment.json",
    )
