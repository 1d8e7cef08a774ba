"""The entry points that hostile inputs are tried on: public functions, and commands."""

from __future__ import annotations

from typing import Any

from click.testing import CliRunner

import mlflow_ckpt
from mlflow_ckpt._cli import main
from tests.hostile.harness import CommandRefusedError, EntryPoint
from tests.hostile.world import Target, World
from tests.support.checkpoints import tiny_model


def _command(*arguments: object) -> str:
    """Run a command; raise an error with its message if it ends with one."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    if result.exit_code != 0:
        raise CommandRefusedError(result.output[-1500:])
    return result.output


def _restore_files(world: World, target: Target) -> str:
    output = world.place()
    target.watched.append(output)
    return _command("restore", target.run, "--output", output / "out")


def _predict(world: World, target: Target) -> str:
    inputs = target.files.get("inputs")
    if inputs is None:
        import numpy as np

        inputs = world.place() / "x.npy"
        np.save(inputs, np.zeros((2, 4), "float32"))
    return _command("predict", target.run or world.forge(lambda _: None).run, inputs)


def _report(world: World, target: Target) -> str:
    output = world.place()
    target.watched.append(output)
    return _command("report", target.run, "--output", output / "report.html")


def _import(world: World, target: Target) -> str:
    run_id = world.new_run()
    target.watched.append(world.artifacts(run_id))
    architecture = target.files.get("architecture")
    more = [] if architecture is None else ["--architecture", architecture]
    assert target.folder is not None
    return _command("import", target.folder, "--run-id", run_id, *more)


def _diff(world: World, target: Target) -> str:
    result = CliRunner().invoke(main, ["diff", target.run, world.forge(lambda _: None).run])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    if result.exit_code > 1:
        raise CommandRefusedError(result.output[-1500:])
    return result.output


def _any_model(world: World, target: Target) -> str:
    return str(mlflow_ckpt.load_model(target.run, allow_unverified=True))


def _resume(world: World, target: Target) -> str:
    point = mlflow_ckpt.resume(target.run)
    return str(point.changes)


def _restore(world: World, target: Target) -> str:
    return str(mlflow_ckpt.restore(tiny_model(), target.run).changes)


def _of(function: Any, **settings: Any) -> EntryPoint:
    return lambda world, target: str(function(target.run, **settings))


def _as_command(name: str, *arguments: str) -> EntryPoint:
    return lambda world, target: _command(name, target.run, *arguments)


ENTRY_POINTS: dict[str, EntryPoint] = {
    "load_model": _of(mlflow_ckpt.load_model),
    "load_split": _of(mlflow_ckpt.load_model, form="split"),
    "load_uncompiled": _of(mlflow_ckpt.load_model, compile=False),
    "load_any": _any_model,
    "load_architecture": _of(mlflow_ckpt.load_architecture),
    "load_weights": lambda world, target: str(
        mlflow_ckpt.load_weights(tiny_model(), target.run, skip_mismatch=True)
    ),
    "restore": _restore,
    "resume": _resume,
    "list_checkpoints": _of(mlflow_ckpt.list_checkpoints),
    "get_checkpoint": _of(mlflow_ckpt.get_checkpoint),
    "best": _of(mlflow_ckpt.get_checkpoint, checkpoint="best"),
    "diff": lambda world, target: str(
        mlflow_ckpt.diff(target.run, world.forge(lambda _: None).run).identical
    ),
    "verify": lambda world, target: _verified(target),
    "$ list": _as_command("list"),
    "$ show": _as_command("show"),
    "$ verify": _as_command("verify"),
    "$ diff": _diff,
    "$ report": _report,
    "$ restore": _restore_files,
    "$ predict": _predict,
    "$ import": _import,
    "$ register": _as_command("register", "--name", "hostile"),
}


def _verified(target: Target) -> str:
    result = mlflow_ckpt.verify(target.run)
    result.raise_if_damaged()
    return str(result)


LOADING = (
    "load_model",
    "load_split",
    "load_weights",
    "restore",
    "resume",
    "$ restore",
    "$ predict",
)
READING = ("verify", "diff", "list_checkpoints", "$ list", "$ show", "$ verify", "$ report")
EVERY = (*LOADING, *READING, "load_uncompiled", "load_architecture", "best", "$ register")
FILES = ("$ import",)
FOREIGN = ("load_any", "$ restore", "$ predict", "$ diff", "$ list")
