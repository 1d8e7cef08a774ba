"""Makes a checkpoint's directory a stock MLflow model: MLmodel and its environment files."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from mlflow import pyfunc
from mlflow.models import Model, ModelSignature
from mlflow.types.schema import Schema, TensorSpec

from mlflow_ckpt._format import layout
from mlflow_ckpt._format.schema import ModelSchema, TensorSchema

CONDA = "conda.yaml"
PYTHON_ENV = "python_env.yaml"
REQUIREMENTS = "requirements.txt"


def write(
    directory: Path,
    *,
    run_id: str,
    name: str,
    full_format: str,
    keras_version: str,
    backend: str,
    schema: ModelSchema | None,
    metadata: Mapping[str, Any],
) -> None:
    """Write `MLmodel`, `conda.yaml`, `python_env.yaml` and `requirements.txt`.

    Requirements are those that are installed, pinned: to infer them, MLflow loads the model in
    another process, which takes seconds a save.

    Args:
        directory: A checkpoint's directory that holds the full form.
        run_id: The run it belongs to.
        name: The checkpoint's name.
        full_format: `"keras"` or `"h5"`.
        keras_version: Version of the Keras that saved the model.
        backend: Keras's backend, such as `"tensorflow"`.
        schema: What the model takes and gives; None if it cannot tell.
        metadata: What to note in `MLmodel`; plain values only.
    """
    model = Model(
        run_id=run_id,
        artifact_path=layout.artifact_path(name),
        signature=None if schema is None else _signature(schema),
        metadata=dict(metadata) or None,
    )
    if full_format == "keras":
        _add_keras_flavor(model, keras_version, backend)
    else:
        (directory / "data" / "save_format.txt").write_text("h5")
        _add_tensorflow_flavor(model, keras_version)
    for file_name, text in _environment(backend).items():
        (directory / file_name).write_text(text, encoding="utf-8")
    model.model_size_bytes = sum(f.stat().st_size for f in directory.rglob("*") if f.is_file())
    model.save(str(directory / layout.MLMODEL))


def _add_keras_flavor(model: Model, keras_version: str, backend: str) -> None:
    """Tell how `mlflow.keras` opens a `.keras` file."""
    model.add_flavor(
        "keras",
        data="data",
        keras_version=keras_version,
        keras_backend=backend,
        save_exported_model=False,
    )
    pyfunc.add_to_model(model, loader_module="mlflow.keras", conda_env=CONDA, python_env=PYTHON_ENV)


def _add_tensorflow_flavor(model: Model, keras_version: str) -> None:
    """Tell how `mlflow.tensorflow` opens legacy HDF5, which `mlflow.keras` does not."""
    model.add_flavor(
        "tensorflow",
        data="data",
        keras_version=keras_version,
        model_type="keras",
        save_format="h5",
    )
    pyfunc.add_to_model(
        model,
        loader_module="mlflow.tensorflow",
        data="data",
        conda_env=CONDA,
        python_env=PYTHON_ENV,
    )


@cache
def _environment(backend: str) -> dict[str, str]:
    """Return the files in which MLflow's three environment managers look, the same at each save."""
    python = platform.python_version()
    requirements = _requirements(backend)
    conda = {
        "name": "mlflow-env",
        "channels": ["conda-forge"],
        "dependencies": [f"python={python}", "pip", {"pip": requirements}],
    }
    python_env = {
        "python": python,
        "build_dependencies": ["pip", "setuptools", "wheel"],
        "dependencies": [f"-r {REQUIREMENTS}"],
    }
    return {
        CONDA: yaml.safe_dump(conda, sort_keys=False),
        PYTHON_ENV: yaml.safe_dump(python_env, sort_keys=False),
        REQUIREMENTS: "\n".join(requirements) + "\n",
    }


def _requirements(backend: str) -> list[str]:
    names = ["mlflow", "keras", backend, "numpy", "h5py"]
    pinned = []
    for name in names:
        try:
            pinned.append(f"{name}=={version(name)}")
        except PackageNotFoundError:
            # A backend under another distribution name, such as tensorflow-cpu: leave it open.
            pinned.append(name)
    return pinned


def _signature(schema: ModelSchema) -> ModelSignature:
    return ModelSignature(inputs=_specs(schema.inputs), outputs=_specs(schema.outputs))


def _specs(tensors: Sequence[TensorSchema]) -> Schema:
    """Return tensors as MLflow describes them, with -1 for a size that is open."""
    return Schema(
        [
            TensorSpec(
                np.dtype(tensor.dtype),
                tuple(-1 if size is None else size for size in tensor.shape),
                tensor.name,
            )
            for tensor in tensors
        ]
    )
