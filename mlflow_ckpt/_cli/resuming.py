"""Starts a training again where a checkpoint was saved, or tells how to."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Collection
from dataclasses import dataclass, replace

from mlflow_ckpt._format.reference import Selector
from mlflow_ckpt._tracking.catalog import Catalog
from mlflow_ckpt._tracking.checkpoint import Checkpoint
from mlflow_ckpt._tracking.foreign import hinting
from mlflow_ckpt._tracking.project import RESUME_FROM, ProjectRun
from mlflow_ckpt._tracking.references import resolve
from mlflow_ckpt._tracking.store import RunStore
from mlflow_ckpt.errors import InvalidArgumentError


@dataclass(frozen=True)
class Resumption:
    """How a training is started again.

    Attributes:
        checkpoint: What it goes on from.
        command: The `mlflow run` that does it; None if no project made the run.
        epochs: Epochs in all.
        selector: The checkpoint as it was asked for.
        in_place: Whether it goes on in the same run.
        tracking_uri: The tracking server.
        changed: How the project's code differs; None if it does not.
    """

    checkpoint: Checkpoint
    command: list[str] | None
    epochs: int
    selector: Selector
    in_place: bool
    tracking_uri: str
    changed: str | None

    def to_text(self) -> str:
        """Return what is about to be done; or the lines of Python that do it."""
        manifest = self.checkpoint.manifest
        where = "in the same run" if self.in_place else "in a new run"
        what = f"{manifest.name} of run {self.checkpoint.run_id}"
        if self.command is not None:
            lines = [
                f"Resuming from {what} {where}, up to epoch {self.epochs}:",
                f"  mlflow {shlex.join(self.command)}",
            ]
            if self.changed:
                lines.append(f"Not the same as before: {self.changed}.")
            return "\n".join(lines)
        reference = repr(str(self.checkpoint.run_id))
        if self.selector != Selector("latest"):
            reference += f", {str(self.selector)!r}"
        in_place = ", in_place=True" if self.in_place else ""
        return "\n".join(
            [
                f"No MLflow Project made the run, so nothing here knows how to start it. "
                f"From {what} on, {where}:",
                "  import mlflow_ckpt",
                f"  point = mlflow_ckpt.resume({reference}, callbacks=[...]{in_place})",
                f"  point.model.fit(..., initial_epoch=point.initial_epoch, epochs={self.epochs},",
                "                  callbacks=point.callbacks)",
            ]
        )

    def start(self, own_environment: Collection[str] = ()) -> None:
        """Become the `mlflow run` that does it, if there is one.

        Args:
            own_environment: Environment variables that are this command line's own.
        """
        if self.command is None:
            return
        sys.stdout.flush()
        environment = {k: v for k, v in os.environ.items() if k not in own_environment}
        environment["MLFLOW_TRACKING_URI"] = self.tracking_uri
        os.execve(  # noqa: S606 - arguments as a list, and the interpreter that runs this
            sys.executable, [sys.executable, "-m", "mlflow", *self.command], environment
        )


def prepare(
    run: str,
    checkpoint: str,
    *,
    epochs: int,
    in_place: bool,
    monitor: str | None,
    mode: str | None,
    project: str | None,
    environment: str | None,
    tracking_uri: str | None,
) -> Resumption:
    """Find out how to start a training again.

    Args:
        run: A run id or a `ckpt:` URI.
        checkpoint: A selector.
        epochs: Epochs in all.
        in_place: Whether to go on in the same run.
        monitor: For `best`, the metric to judge by.
        mode: For `best`, which way.
        project: Where the project is, if not where it was.
        environment: What `mlflow run --env-manager` is to be, if not what it was.
        tracking_uri: The tracking server.

    Raises:
        InvalidArgumentError: If there is nothing left to train, or the project cannot resume.
        MlflowCkptError: As `mlflow_ckpt.get_checkpoint`.
    """
    reference = resolve(run, checkpoint, tracking_uri)
    store = RunStore(reference.run_id, tracking_uri)
    catalog = Catalog(store)
    with hinting(store):
        if reference.selector == Selector("latest"):
            # A damaged one is passed over by what resumes, which says so.
            complete = catalog.survey()[0]
            found = complete[-1] if complete else catalog.find(reference.selector)
        else:
            found = catalog.find(reference.selector, monitor=monitor, mode=mode)
    if epochs <= found.manifest.epoch:
        raise InvalidArgumentError(
            f"The checkpoint {found.name} is of epoch {found.manifest.epoch}. Expected --epochs, "
            f"the number of epochs in all, to be greater. Received: --epochs {epochs}"
        )
    made = ProjectRun.of(store.run)
    if made is not None and project is not None:
        made = made.moved(project)
    if made is not None and environment is not None:
        made = replace(made, environment=environment)
    command = None
    if made is not None:
        latest = reference.selector == Selector("latest")
        source = reference.run_id if latest else f"ckpt:/{reference.run_id}/{found.name}"
        command = made.arguments(
            {RESUME_FROM: source, "epochs": str(epochs)},
            run_id=reference.run_id if in_place else None,
        )
    return Resumption(
        checkpoint=found,
        command=command,
        epochs=epochs,
        selector=reference.selector,
        in_place=in_place,
        tracking_uri=store.tracking_uri,
        changed=None if made is None else made.changed_version(),
    )
