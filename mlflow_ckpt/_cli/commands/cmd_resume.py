"""`mlflow-ckpt resume`."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Collection
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import click

from mlflow_ckpt._cli import options
from mlflow_ckpt._cli.console import echo
from mlflow_ckpt._format.reference import Query, Reference, Selector, uri_of
from mlflow_ckpt._shown.escaping import shown
from mlflow_ckpt._tracking.removed import CheckpointRemovedError
from mlflow_ckpt.errors import InvalidArgumentError

if TYPE_CHECKING:
    from mlflow_ckpt._tracking.checkpoint import Checkpoint
    from mlflow_ckpt._tracking.project import ProjectRun
    from mlflow_ckpt._tracking.store import RunStore

_LATEST = Selector("latest")
# What is shown of a run's parameters.
_MOST_PARAMETERS = 50
_LONGEST = 200


@click.command("resume", short_help="Resume training from a checkpoint of RUN.")
@options.query
@click.option(
    "--epochs", type=click.IntRange(min=1), required=True, metavar="N", help="Total epochs."
)
@click.option("--in-place", is_flag=True, help="Resume in the same run. Default: in a new one.")
@click.option(
    "--project", metavar="URI", help="The project's directory or repository. Default: as recorded."
)
@click.option(
    "--env-manager",
    "environment",
    type=click.Choice(["local", "virtualenv", "uv", "conda"]),
    help="As for mlflow run. Default: as recorded.",
)
@click.option("--yes", is_flag=True, help="Start the project without asking.")
@click.pass_obj
def command(
    added_environment: Collection[str],
    query: Query,
    epochs: int,
    in_place: bool,
    project: str | None,
    environment: str | None,
    yes: bool,
) -> None:
    """Restart the MLflow Project of RUN from one of its checkpoints.

    Shows what it would start, and asks, unless the project is in the repository of the current
    directory. For a run without a project, print Python code that resumes it.
    """
    from mlflow_ckpt._tracking.references import resolve
    from mlflow_ckpt._tracking.spool.sending import send_waiting
    from mlflow_ckpt._tracking.store import RunStore

    reference = resolve(query.run, query.checkpoint, query.tracking_uri)
    store = RunStore(reference.run_id, query.tracking_uri)
    send_waiting(store)
    checkpoint = _find(store, reference.selector, query, epochs)
    if epochs <= checkpoint.manifest.epoch:
        raise InvalidArgumentError(
            f"The checkpoint {checkpoint.name} is of epoch {checkpoint.manifest.epoch}. Expected "
            f"--epochs, the total number of epochs, to be greater. Received: --epochs {epochs}"
        )
    what = f"{checkpoint.name} of run {checkpoint.run_id}"
    where = "in the same run" if in_place else "in a new run"
    project_run = _project_run(store, project, environment)
    if project_run is None:
        name = "" if reference.selector == _LATEST else checkpoint.name
        echo(f"The run was not started by an MLflow Project. To resume {what} {where}:")
        lines = _python(store.run_id, name, query.tracking_uri, epochs, in_place=in_place)
        for line in lines:
            echo(f"  {line}")
        return
    project_run.require_plausible()
    what_to_start = (project_run, reference, checkpoint, epochs, store.tracking_uri)
    start = partial(_arguments, *what_to_start, in_place=in_place)
    if project_run.directory is not None:
        start()  # before the question: the project may not be able to resume
    if not (yes or project_run.is_here()):
        _ask(project_run, what)
    arguments = start()
    changed = project_run.changed_version()
    echo(f"Resuming from {what} {where}, up to epoch {epochs}:")
    echo(f"  mlflow {shlex.join(arguments)}")
    if changed:
        echo(f"Changed since the run: {changed}.")
    _become(arguments, store.tracking_uri, added_environment)


def _ask(project_run: ProjectRun, what: str) -> None:
    """Show what the run's tags would start, and ask whether to start it.

    Raises:
        InvalidArgumentError: If there is no terminal to ask on.
        Abort: If the answer is no.
    """
    echo(f"To resume from {what}, this machine would run code that the run names:")
    parameters = list(project_run.parameters.items())
    for name, value in parameters[:_MOST_PARAMETERS]:
        echo(f"  parameter    {_cut(f'{name}={value}')}")
    if len(parameters) > _MOST_PARAMETERS:
        echo(f"  parameters   {len(parameters) - _MOST_PARAMETERS} more")
    command = project_run.command()
    entry_point = project_run.entry_point + ("" if command is None else f": {command}")
    # Last, so that no number of parameters moves them off the screen.
    echo(f"  environment  {project_run.environment}")
    echo(f"  command      mlflow run, entry point {_cut(entry_point)}")
    echo(f"  commit       {project_run.version or 'none recorded'}")
    echo(f"  source       {_cut(project_run.uri)}")
    if not sys.stdin.isatty():
        raise InvalidArgumentError(
            f"The project {project_run.uri} is not in the repository of the current directory, so "
            "its code is started only if you agree. Pass --yes once you have looked at it, or run "
            "this in the project's directory."
        )
    click.confirm("Start it?", abort=True)


def _cut(text: str) -> str:
    text = shown(text)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _find(store: RunStore, selector: Selector, query: Query, epochs: int) -> Checkpoint:
    """Find the checkpoint to resume from; `latest` is the newest undamaged one."""
    from mlflow_ckpt._tracking.catalog import Catalog
    from mlflow_ckpt._tracking.find import find_own

    if selector == _LATEST:
        # `mlflow_ckpt.resume` passes over damaged ones too, and warns. To verify one may take a
        # download, so it is done only where nothing would be left to train.
        catalog = Catalog(store)
        for checkpoint in reversed(catalog.survey()[0]):
            with suppress(CheckpointRemovedError):
                if checkpoint.manifest.epoch < epochs or catalog.verify(checkpoint).ok:
                    return checkpoint
    return find_own(store, selector, query).checkpoint


def _project_run(
    store: RunStore, project: str | None, environment: str | None
) -> ProjectRun | None:
    """Return how the run was started, as changed by the options; None if no project made it."""
    from mlflow_ckpt._tracking.project import ProjectRun

    project_run = ProjectRun.of(store.run)
    if project_run is not None and project is not None:
        project_run = project_run.moved(project)
    if project_run is not None and environment is not None:
        project_run = replace(project_run, environment=environment)
    return project_run


def _arguments(
    project_run: ProjectRun,
    reference: Reference,
    checkpoint: Checkpoint,
    epochs: int,
    tracking_uri: str,
    *,
    in_place: bool,
) -> list[str]:
    """Return the arguments of `mlflow` that resume the training."""
    from mlflow_ckpt._tracking.project import RESUME_FROM

    run_id = reference.run_id
    source = run_id if reference.selector == _LATEST else uri_of(run_id, checkpoint.name)
    changed = {RESUME_FROM: source, "epochs": str(epochs)}
    return project_run.arguments(changed, tracking_uri, run_id=run_id if in_place else None)


def _python(run_id: str, name: str, uri: str | None, epochs: int, *, in_place: bool) -> list[str]:
    """Return the lines of Python that resume the training."""
    lines = ["import mlflow_ckpt"]
    if uri not in (None, os.environ.get("MLFLOW_TRACKING_URI")):
        # Rather than the argument of `resume`, as the training is to continue there too.
        lines = ["import mlflow, mlflow_ckpt", f"mlflow.set_tracking_uri({uri!r})"]
    arguments = [repr(run_id), *([repr(name)] if name else []), "callbacks=[...]"]
    arguments += ["in_place=True"] if in_place else []
    lines += [
        f"point = mlflow_ckpt.resume({', '.join(arguments)})",
        f"point.model.fit(..., initial_epoch=point.initial_epoch, epochs={epochs},",
        "                callbacks=point.callbacks)",
    ]
    return lines


def _become(arguments: list[str], tracking_uri: str, added_environment: Collection[str]) -> None:
    """Replace this process with `mlflow`, in the environment that the user started it in."""
    sys.stdout.flush()
    environment = {k: v for k, v in os.environ.items() if k not in added_environment}
    environment["MLFLOW_TRACKING_URI"] = tracking_uri
    os.execve(  # noqa: S606 - arguments as a list, and the interpreter that runs this
        # `-P`: not an `mlflow.py` of the current directory.
        sys.executable,
        [sys.executable, "-P", "-m", "mlflow", *arguments],
        environment,
    )
