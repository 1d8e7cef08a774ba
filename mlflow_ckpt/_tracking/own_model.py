"""Whether MLflow would load a checkpoint by Keras alone, as `mlmodel` writes it.

A manifest proves that files are those that somebody saved, not who did. An `MLmodel` may name any
module to load it with, and so may files beside it; requirements may install anything.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from pathlib import PurePosixPath
from typing import Any

from mlflow_ckpt._format import layout
from mlflow_ckpt._format.untrusted import yaml_text
from mlflow_ckpt._tracking.mlmodel import CONDA, PYTHON_ENV, REQUIREMENTS
from mlflow_ckpt.errors import IntegrityError

# Returns the bytes of a small file of the checkpoint.
Read = Callable[[str], bytes]

_MOST_BYTES = 1 << 21
_KERAS_MODULE, _SAVE_FORMAT = "data/keras_module.txt", "data/save_format.txt"
_TEXTS = {_KERAS_MODULE: b"keras", _SAVE_FORMAT: b"h5"}
# MLflow's loaders look for more below `data`, such as pickled objects.
_DATA = {layout.FULL_KERAS, layout.FULL_H5, *_TEXTS}
# Of a model's example, MLflow would read another file.
_REFUSED_KEYS = ("saved_input_example_info", "auth_policy", "resources")
_VERSION = re.compile(r"[\w.+!-]{1,64}")
_REQUIREMENT = re.compile(r"(?:mlflow|keras|tensorflow|jax|torch|numpy|h5py)(?:==[\w.+!-]{1,64})?")
_BUILD = ["pip", "setuptools", "wheel"]


def require_own(what: str, sizes: Mapping[str, int], read: Read) -> None:
    """Check that MLflow would load a checkpoint by no other code than Keras.

    Args:
        what: The checkpoint, for the message.
        sizes: The sizes of its files by path.
        read: Returns the bytes of one.

    Raises:
        IntegrityError: If its `MLmodel`, or a file beside it, is not as this package writes them.
    """
    reason = _reason_against(sizes, read)
    if reason is not None:
        raise IntegrityError(
            f"MLflow would not load {what} by Keras alone: {reason}. mlflow_ckpt did not write it "
            "like that, so it is neither served nor registered. mlflow_ckpt.load_model, which runs "
            "none of it, can load it."
        )


def _reason_against(sizes: Mapping[str, int], read: Read) -> str | None:
    if reason := _reason_against_names(sizes):
        return reason
    if layout.MLMODEL not in sizes:
        return None  # the split form
    small = [*_TEXTS, layout.MLMODEL, CONDA, PYTHON_ENV, REQUIREMENTS]
    present = [path for path in small if path in sizes]
    if large := [path for path in present if sizes[path] > _MOST_BYTES]:
        return f"{large[0]} is larger than any that Keras needs"
    texts = {path: read(path) for path in present}
    for path, expected in _TEXTS.items():
        if texts.get(path, expected) != expected:
            return f"{path} does not say {expected.decode()!r}"
    try:
        return _reason_against_model(_parsed(texts[layout.MLMODEL])) or _reason_against_environment(
            texts
        )
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
        return "its MLmodel or its environment cannot be read"


def _reason_against_names(paths: Collection[str]) -> str | None:
    for path in map(PurePosixPath, paths):
        if path.name.lower() == layout.MLMODEL.lower() and str(path) != layout.MLMODEL:
            return f"{path} is a second MLmodel"
        if path.parts[0].lower() == "data" and str(path) not in _DATA:
            return f"it holds {path}"
    return None


def _parsed(text: bytes) -> dict[str, Any]:
    parsed = yaml_text.parse(text)
    if not isinstance(parsed, dict):
        raise TypeError("it is no mapping")
    return parsed


def _reason_against_model(model: dict[str, Any]) -> str | None:
    if refused := [key for key in _REFUSED_KEYS if model.get(key) is not None]:
        return f"its MLmodel has {refused[0]}"
    flavors = dict(model["flavors"])
    python_function = dict(flavors.pop("python_function"))
    (name,) = flavors
    flavor = dict(flavors[name])
    flavor_version = flavor.pop("keras_version")
    python_version = python_function.pop("python_version", None)
    if name == "keras":
        expected: dict[str, Any] = {"data": "data", "save_exported_model": False}
        of_python = {"loader_module": "mlflow.keras"}
        if flavor.pop("keras_backend") not in ("tensorflow", "jax", "torch"):
            return "its MLmodel names an unknown backend"
    else:
        expected = {"data": "data", "model_type": "keras", "save_format": "h5"}
        of_python = {"loader_module": "mlflow.tensorflow", "data": "data"}
    environment = {"conda": CONDA, "virtualenv": PYTHON_ENV}
    versions = all(_VERSION.fullmatch(str(v)) for v in (flavor_version, python_version))
    if name not in ("keras", "tensorflow") or flavor != expected or not versions:
        return f"its MLmodel has a flavor {name!r} of another kind"
    if python_function != {**of_python, "env": environment}:
        loader = python_function.get("loader_module")
        return f"its MLmodel has a loader of another kind (loader_module: {loader!r})"
    return None


def _reason_against_environment(texts: Mapping[str, bytes]) -> str | None:
    """Return why serving would install other packages than those of Keras and MLflow."""
    requirements = texts[REQUIREMENTS].decode().splitlines()
    for line in requirements:
        if not _REQUIREMENT.fullmatch(line):
            return f"{REQUIREMENTS} asks for {line!r}"
    environment, conda = _parsed(texts[PYTHON_ENV]), _parsed(texts[CONDA])
    python = str(environment.pop("python"))
    if not _VERSION.fullmatch(python) or environment != {
        "build_dependencies": _BUILD,
        "dependencies": [f"-r {REQUIREMENTS}"],
    }:
        return f"{PYTHON_ENV} asks for other packages than {REQUIREMENTS}"
    if conda != {
        "name": "mlflow-env",
        "channels": ["conda-forge"],
        "dependencies": [f"python={python}", "pip", {"pip": requirements}],
    }:
        return f"{CONDA} asks for other packages than {REQUIREMENTS}"
    return None
