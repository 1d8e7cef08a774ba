"""Who wrote a class or a function: the user, a library, or one of the frameworks below Keras."""

from __future__ import annotations

import sys
import sysconfig
from functools import lru_cache
from pathlib import Path
from typing import Any

# Their classes hold what the package captures by other means, and their functions call no others.
_FRAMEWORKS = ("keras", "tensorflow", "jax", "jaxlib", "torch", "numpy")


def package_of(item: Any) -> str:
    """Return the name of the package that defines a class or a function."""
    return str(getattr(item, "__module__", None) or "").partition(".")[0]


def is_of_framework(item: Any) -> bool:
    """Whether Keras, a backend, NumPy or Python's own library defines a class or a function."""
    package = package_of(item)
    return package in _FRAMEWORKS or package in sys.stdlib_module_names


@lru_cache(maxsize=1024)
def is_of_user(module: str | None) -> bool:
    """Whether a module is the user's: objects of libraries change for many other reasons."""
    if module is None or module.partition(".")[0] == "mlflow_ckpt":
        return False
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None:
        return module == "__main__"
    paths = sysconfig.get_paths()
    libraries = {Path(paths[name]).resolve() for name in ("stdlib", "platlib", "purelib")}
    parents = Path(file).resolve().parents
    # Also those that the user or the operating system installed elsewhere.
    installed = any(path.name in ("site-packages", "dist-packages") for path in parents)
    return not installed and libraries.isdisjoint(parents)
