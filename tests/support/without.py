"""A virtual environment with all installed packages except this one, created in a second."""

from __future__ import annotations

import os
import sys
import sysconfig
import venv
from pathlib import Path

_OURS = ("mlflow_ckpt", "__editable__")


def environment_without_package(directory: Path) -> Path:
    """Create a virtual environment with links to all installed packages except mlflow_ckpt.

    Args:
        directory: Directory of the environment.

    Returns:
        Its interpreter.
    """
    linked = directory / "linked"
    linked.mkdir(parents=True)
    for place in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for item in Path(place).iterdir():
            if not item.name.startswith(_OURS) and item.suffix != ".pth":
                (linked / item.name).symlink_to(item)
    home = directory / "venv"
    venv.create(home, symlinks=True, with_pip=False)
    (packages,) = home.glob("lib/python*/site-packages")
    (packages / "linked.pth").write_text(f"{linked}\n")
    for script in Path(sys.executable).parent.iterdir():
        # MLflow starts some commands by name.
        if script.name == "uvicorn":
            text = script.read_text().splitlines(keepends=True)
            target = home / "bin" / script.name
            target.write_text("".join([f"#!{home / 'bin' / 'python'}\n", *text[1:]]))
            target.chmod(0o755)
    return home / "bin" / "python"


def variables_of(interpreter: Path) -> dict[str, str]:
    """Return the environment variables of a shell in which the environment is active."""
    own = {"PATH": f"{interpreter.parent}{os.pathsep}{os.environ['PATH']}"}
    return {key: value for key, value in {**os.environ, **own}.items() if key != "PYTHONPATH"}
