"""MLproject and conda.yaml agree with the code and with setup.cfg."""

from __future__ import annotations

import ast
import re
import sys
from configparser import ConfigParser
from importlib.metadata import packages_distributions
from typing import Any

import click
import pytest
import yaml
from packaging.requirements import Requirement

from projects.cifar10 import evaluate, predict, train
from tests.projects.conftest import REPOSITORY

COMMANDS = {"main": train.main, "evaluate": evaluate.main, "predict": predict.main}


def read(name: str) -> Any:
    return yaml.safe_load((REPOSITORY / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("entry_point", COMMANDS)
def test_entry_points_offer_every_option_with_its_default(entry_point: str) -> None:
    options = {
        option.opts[0].removeprefix("--").replace("-", "_"): option
        for option in COMMANDS[entry_point].params
        if isinstance(option, click.Option)
    }
    point = read("MLproject")["entry_points"][entry_point]
    assert set(point["parameters"]) == set(options)
    for name, option in options.items():
        assert point["parameters"][name].get("default") == (
            None if option.required else option.default
        )
        assert option.help
        assert f"{option.opts[0]} {{{name}}}" in point["command"]


def requirements(*extras: str) -> dict[str, Requirement]:
    setup = ConfigParser(interpolation=None)
    setup.read(REPOSITORY / "setup.cfg", encoding="utf-8")
    optional = setup["options.extras_require"]
    lines = [setup["options"]["install_requires"], *(optional[name] for name in extras)]
    parsed = [
        Requirement(line)
        for text in lines
        for line in text.splitlines()
        if line.strip() and not line.startswith("%")
    ]
    return {requirement.name: requirement for requirement in parsed}


def test_conda_yaml_pins_what_setup_cfg_asks_for() -> None:
    *_, packages = read("conda.yaml")["dependencies"]
    pins = [Requirement(line) for line in packages["pip"]]
    wanted = requirements("tensorflow", "project")
    assert {pin.name for pin in pins} == set(wanted)
    for pin in pins:
        (specifier,) = pin.specifier
        assert specifier.operator == "=="
        assert wanted[pin.name].specifier.contains(specifier.version)


def imported() -> set[str]:
    """Top-level names of everything that the code imports, wherever in a file."""
    modules: set[str] = set()
    for directory in ("mlflow_ckpt", "projects"):
        for path in (REPOSITORY / directory).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    modules |= {alias.name.partition(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    modules.add(node.module.partition(".")[0])
    return modules


def test_setup_cfg_asks_for_everything_that_is_imported() -> None:
    """Not for what comes along with something else, and may stop to."""
    own = {"mlflow_ckpt", "projects", *sys.stdlib_module_names}
    distributions = packages_distributions()
    asked_for = requirements("tensorflow", "project", "signing")
    wanted = {re.sub("[-_.]+", "-", name).lower() for name in asked_for}
    missing = {
        name
        for name in imported() - own
        if not any(
            re.sub("[-_.]+", "-", distribution).lower() in wanted
            for distribution in distributions.get(name, [name])
        )
    }
    assert missing == set()
