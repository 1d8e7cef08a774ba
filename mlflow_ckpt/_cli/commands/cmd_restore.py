"""`mlflow-ckpt restore`."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import click

from mlflow_ckpt._cli import humanize, options
from mlflow_ckpt._cli.model_options import ModelOptions
from mlflow_ckpt._cli.output import move, refuse_occupied, staging
from mlflow_ckpt._cli.quiet import start_backend
from mlflow_ckpt._format import layout
from mlflow_ckpt._format.file_names import ENDINGS
from mlflow_ckpt._format.reference import Query
from mlflow_ckpt._tracking.removed import again_if_removed
from mlflow_ckpt.errors import FormNotFoundError, InvalidArgumentError

if TYPE_CHECKING:
    from mlflow_ckpt._tracking.find import FoundCheckpoint

# For a model whose name is none for a directory.
_DEFAULT_NAME = "model"


@click.command("restore", short_help="Rebuild a checkpoint of RUN as files, verified.")
@options.opening_query
@click.option(
    "--form",
    type=click.Choice(["full", "split"]),
    help="full: one file with everything. split: architecture and weights. "
    "Default: full if the checkpoint has it.",
)
@click.option(
    "--format",
    "file_format",
    type=click.Choice(["keras", "h5", "saved_model"]),
    help="Format of the full form. Default: as saved.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="Directory to write to. Default: the checkpoint's name.",
)
@click.option("--overwrite", is_flag=True, help="Replace files of the same names.")
@options.model_options
@options.show
@again_if_removed
def command(
    query: Query,
    model_options: ModelOptions,
    form: str | None,
    file_format: str | None,
    output: Path | None,
    overwrite: bool,
    show: options.Show,
) -> None:
    """Rebuild a checkpoint of RUN, verified, as files that stock Keras opens."""
    from mlflow_ckpt._cli import restoring
    from mlflow_ckpt._cli.progress import progress_bar
    from mlflow_ckpt._tracking.find import find

    convert = model_options.converter()
    if form == "split" and file_format is not None:
        raise InvalidArgumentError(
            "--format is the file format of the full form; the split form is always architecture "
            "and weights in separate files. Omit --form split or --format."
        )
    checkpoint = find(query, convert)
    form = _form(checkpoint, form, file_format)
    target = output or Path(_directory_name(checkpoint.name))
    refuse_occupied(target, overwrite=overwrite)
    # Check the request first, because the backend takes seconds to start.
    start_backend()
    with progress_bar() as progress, staging(target) as staged:
        with checkpoint.open(progress) as opened:
            if form == "split":
                tensors = restoring.write_split(opened, staged, model_options.custom_objects)
            else:
                tensors = restoring.write_full(
                    opened, staged, file_format, model_options.custom_objects
                )
            for name in (layout.ARCHITECTURE_JSON, layout.ARCHITECTURE_YAML, layout.FINGERPRINT):
                shutil.copyfile(opened.directory / name, staged / name)
        files = sorted(item.name for item in staged.iterdir())
        move(staged, target)
    show(Restored(checkpoint, target, form, tuple(files), tensors, opened.lost))


@dataclass(frozen=True)
class Restored:
    """A checkpoint restored as files.

    Attributes:
        checkpoint: The checkpoint.
        output: The directory.
        form: `"full"` or `"split"`.
        files: Paths written, relative to it; a SavedModel is a directory.
        tensors: Number of tensors that equal the fingerprint.
        lost: Description of what could not be loaded; None if everything was.
    """

    checkpoint: FoundCheckpoint
    output: Path
    form: str
    files: tuple[str, ...]
    tensors: int
    lost: str | None

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as plain values."""
        verified = self.checkpoint.verified
        return {
            "run_id": self.checkpoint.run_id,
            "checkpoint": self.checkpoint.name,
            "epoch": self.checkpoint.epoch,
            "form": self.form,
            "output": str(self.output),
            "files": list(self.files),
            "verified": verified,
            "tensors_verified": self.tensors if verified else 0,
        }

    def to_lines(self) -> list[str]:
        """Return what was done, and what to do next."""
        checkpoint = self.checkpoint
        size = sum(
            file.stat().st_size
            for name in self.files
            for file in [self.output / name, *(self.output / name).rglob("*")]
            if file.is_file()
        )
        proof = f"all {self.tensors} tensors are those that were saved"
        if not checkpoint.verified:
            proof = "unverified: there is no record of what was saved"
        return [
            f"Restored {checkpoint.name} of run {checkpoint.run_id} to {self.output} "
            f"({humanize.size(size)}; {proof})",
            *(f"  {self.output / name}" for name in self.files),
            *([] if self.lost is None else [f"Without {self.lost}"]),
            "",
            *self._resuming(),
            "Infer:",
            f"  mlflow-ckpt predict {checkpoint.uri} INPUT.npy",
            *(f"  {line}" for line in self._stock_keras()),
        ]

    def _resuming(self) -> list[str]:
        if not self.checkpoint.verified:
            return []  # a foreign model has no training state
        return [
            "Resume training:",
            f'  point = mlflow_ckpt.resume("{self.checkpoint.uri}", callbacks=[...])',
            "  point.model.fit(..., initial_epoch=point.initial_epoch, "
            f"epochs={(self.checkpoint.epoch or 0) + 1}, callbacks=point.callbacks)",
        ]

    def _stock_keras(self) -> list[str]:
        from mlflow_ckpt._cli.restoring import FILES

        if self.form == "split":
            return [
                "model = keras.models.model_from_json("
                f'open("{self.output / layout.ARCHITECTURE_JSON}").read())',
                f'model.load_weights("{self.output / layout.WEIGHTS}")',
            ]
        if FILES["saved_model"] in self.files:
            return [
                f'served = tf.saved_model.load("{self.output / FILES["saved_model"]}")',
                "served.serve(x)",
            ]
        name = next(name for name in self.files if name in FILES.values())
        # Keras 3.15 cannot compile every .h5 model that it wrote.
        compiled = ", compile=False" if name == FILES["h5"] else ""
        return [f'model = keras.models.load_model("{self.output / name}"{compiled})']


def _form(checkpoint: FoundCheckpoint, form: str | None, file_format: str | None) -> str:
    """Return the form to restore: full by default, if the checkpoint has it."""
    from mlflow_ckpt._tracking.find import OwnCheckpoint

    if not isinstance(checkpoint, OwnCheckpoint):
        return form or "full"
    manifest = checkpoint.checkpoint.manifest
    chosen = form or ("full" if file_format or "full" in manifest.forms else "split")
    if chosen == "full" and manifest.full_format is None:
        raise FormNotFoundError(
            f"The checkpoint {checkpoint.name} holds the split form only. "
            "Restore it with --form split.",
            available=manifest.forms,
        )
    return chosen


def _directory_name(name: str) -> str:
    """Return a checkpoint's name without the ending of a foreign model's file."""
    file = PurePosixPath(name).name
    name = next((file.removesuffix(ending) for ending in ENDINGS if file.endswith(ending)), file)
    return _DEFAULT_NAME if name in ("", ".", "..") or "\\" in name else name
