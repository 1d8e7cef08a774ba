"""MLproject and conda.yaml agree with the code and with setup.cfg."""

from __future__ import annotations

from configparser import ConfigParser
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


def requirements() -> dict[str, Requirement]:
    setup = ConfigParser(interpolation=None)
    setup.read(REPOSITORY / "setup.cfg", encoding="utf-8")
    extras = setup["options.extras_require"]
    lines = [setup["options"]["install_requires"], extras["tensorflow"], extras["project"]]
    found = [
        Requirement(line)
        for text in lines
        for line in text.splitlines()
        if line.strip() and not line.startswith("%")
    ]
    return {requirement.name: requirement for requirement in found}


def test_conda_yaml_pins_what_setup_cfg_asks_for() -> None:
    *_, packages = read("conda.yaml")["dependencies"]
    pins = [Requirement(line) for line in packages["pip"]]
    wanted = requirements()
    assert {pin.name for pin in pins} == set(wanted)
    for pin in pins:
        (specifier,) = pin.specifier
        assert specifier.operator == "=="
        assert wanted[pin.name].specifier.contains(specifier.version)
