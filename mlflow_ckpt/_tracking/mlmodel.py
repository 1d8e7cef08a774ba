"""Writes the MLmodel and environment files that make a checkpoint a standard MLflow model."""

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

    Requirements are pinned to the installed versions. MLflow's inference would load the model in
    another process, which takes seconds per save.

    Args:
        directory: A checkpoint's directory that holds the full form.
        run_id: The run it belongs to.
        name: The checkpoint's name.
        full_format: `"keras"` or `"h5"`.
        keras_version: Version of the Keras that saved the model.
        backend: Keras's backend, such as `"tensorflow"`.
        schema: The model's inputs and outputs; None if unknown.
        metadata: JSON-serializable values to record in `MLmodel`.
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
    """Add the flavor by which `mlflow.keras` loads a `.keras` file."""
    model.add_flavor(
        "keras",
        data="data",
        keras_version=keras_version,
        keras_backend=backend,
        save_exported_model=False,
    )
    pyfunc.add_to_model(model, loader_module="mlflow.keras", conda_env=CONDA, python_env=PYTHON_ENV)


def _add_tensorflow_flavor(model: Model, keras_version: str) -> None:
    """Add the flavor by which `mlflow.tensorflow` loads legacy HDF5; `mlflow.keras` cannot."""
    model.add_flavor(
        "tensorflow", data="data", keras_version=keras_version, model_type="keras", save_format="h5"
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
    """Return the texts of MLflow's environment files by name; the same for every checkpoint."""
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
            # Unpinned: the backend has another distribution name, such as tensorflow-cpu.
            pinned.append(name)
    return pinned


def _signature(schema: ModelSchema) -> ModelSignature:
    return ModelSignature(inputs=_specs(schema.inputs), outputs=_specs(schema.outputs))


def _specs(tensors: Sequence[TensorSchema]) -> Schema:
    """Return MLflow's schema of tensors, with -1 for free axes."""
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
