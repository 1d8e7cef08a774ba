"""Restores a checkpoint as files that stock Keras opens, verified and rebuilt on the way."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from rich.filesize import decimal

from mlflow_ckpt._cli.output import move, refuse_occupied, staging
from mlflow_ckpt._cli.quiet import start_backend
from mlflow_ckpt._format import layout
from mlflow_ckpt._format.file_names import ENDINGS
from mlflow_ckpt._format.fingerprint import WEIGHTS_ROLE, Fingerprint
from mlflow_ckpt._format.manifest import Manifest
from mlflow_ckpt._format.weights_file import damaged_tensors, has_assets
from mlflow_ckpt._loading.sources import ForeignSource, Opening, OwnSource, Source, find
from mlflow_ckpt.errors import (
    FingerprintMismatchError,
    FormNotFoundError,
    InvalidArgumentError,
    UnsupportedModelError,
)

if TYPE_CHECKING:
    import keras

FILES = {"keras": "model.keras", "h5": "model.h5", "saved_model": "saved_model"}


@dataclass(frozen=True)
class Restored:
    """A checkpoint restored as files.

    Attributes:
        source: Where it comes from.
        epoch: Number of completed epochs; None if unknown.
        output: The directory.
        form: `"full"` or `"split"`.
        files: Paths written, relative to it; a SavedModel is a directory.
        tensors: Number of tensors that were compared with the fingerprint and equal.
        lost: What of the model could not be loaded, as a phrase; None if nothing.
    """

    source: Source
    epoch: int | None
    output: Path
    form: str
    files: tuple[str, ...]
    tensors: int
    lost: str | None = None

    @property
    def verified(self) -> bool:
        """Whether a manifest proves that the files hold what was saved."""
        return isinstance(self.source, OwnSource)

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as plain values."""
        return {
            "run_id": self.source.run_id,
            "checkpoint": self.source.name,
            "epoch": self.epoch,
            "form": self.form,
            "output": str(self.output),
            "files": list(self.files),
            "verified": self.verified,
            "tensors_verified": self.tensors if self.verified else 0,
        }

    def to_text(self) -> str:
        """Return what was done, and what to do next."""
        uri = self.source.uri
        size = sum(
            file.stat().st_size
            for name in self.files
            for file in [self.output / name, *(self.output / name).rglob("*")]
            if file.is_file()
        )
        proof = f"all {self.tensors} tensors are those that were saved"
        if not self.verified:
            proof = "unverified: nothing tells what was saved"
        lines = [
            f"Restored {self.source.name} of run {self.source.run_id} to {self.output} "
            f"({decimal(size)}; {proof})",
            *(f"  {self.output / name}" for name in self.files),
            *([] if self.lost is None else [f"Without {self.lost}"]),
            "",
            *self._resuming(uri),
            "Infer:",
            f"  mlflow-ckpt predict {uri} INPUT.npy",
            *(f"  {line}" for line in self._stock_keras()),
        ]
        return "\n".join(lines)

    def _resuming(self, uri: str) -> list[str]:
        if not self.verified:
            return []  # there is no training's state
        return [
            "Resume training:",
            f'  point = mlflow_ckpt.resume("{uri}", callbacks=[...])',
            "  point.model.fit(..., initial_epoch=point.initial_epoch, "
            f"epochs={(self.epoch or 0) + 1}, callbacks=point.callbacks)",
        ]

    def _stock_keras(self) -> list[str]:
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


def restore(
    run: str,
    checkpoint: str | int = "latest",
    *,
    monitor: str | None = None,
    mode: str | None = None,
    form: str | None = None,
    file_format: str | None = None,
    output: Path | None = None,
    overwrite: bool = False,
    opening: Opening | None = None,
    tracking_uri: str | None = None,
) -> Restored:
    """Restore a checkpoint as files.

    Args:
        run: A run id or a URI.
        checkpoint: A selector.
        monitor: For `best`, the metric to judge by.
        mode: For `best`, which way.
        form: `"full"` or `"split"`; None takes the full form where the checkpoint has it.
        file_format: `"keras"`, `"h5"` or `"saved_model"`; None keeps the format it was saved in.
        output: The directory; the checkpoint's name below the current one if None.
        overwrite: Whether a directory that is not empty may be written to. Only files of the same
            names are replaced.
        opening: What opening it may need, such as classes that the model uses.
        tracking_uri: The tracking server.

    Raises:
        OutputError: If the directory is in the way or cannot be written.
        MlflowCkptError: As `mlflow_ckpt.load_model`.
    """
    _refuse_contradiction(form, file_format)
    opening = opening or Opening()
    source = find(run, checkpoint, monitor=monitor, mode=mode, tracking_uri=tracking_uri)
    form = _form(source, form, file_format)
    target = output or Path(_directory_name(source.name))
    refuse_occupied(target, overwrite=overwrite)
    # Only now: whatever is wrong with the request was told without waiting for the backend.
    start_backend()
    with staging(target) as staged:
        with source.opened(opening) as opened:
            directory, manifest, objects = opened.directory, opened.manifest, opening.custom_objects
            if form == "split":
                tensors = _restore_split(directory, manifest, staged, objects)
            else:
                wanted = file_format or str(manifest.full_format)
                tensors = _restore_full(directory, manifest, staged, wanted, objects)
            for name in (layout.ARCHITECTURE_JSON, layout.ARCHITECTURE_YAML, layout.FINGERPRINT):
                shutil.copyfile(directory / name, staged / name)
        files = sorted(item.name for item in staged.iterdir())
        move(staged, target)
    epoch = source.found.epoch if isinstance(source, ForeignSource) else manifest.epoch
    return Restored(source, epoch, target, form, tuple(files), tensors, opened.lost)


def _directory_name(name: str) -> str:
    """Return a checkpoint's name as that of a directory: what others wrote may be a file."""
    file = PurePosixPath(name).name
    return next((file.removesuffix(each) for each in ENDINGS if file.endswith(each)), file)


def _refuse_contradiction(form: str | None, file_format: str | None) -> None:
    if form == "split" and file_format is not None:
        raise InvalidArgumentError(
            "--format chooses the file of the full form; the split form is always architecture "
            "and weights apart. Leave one of --form split and --format out."
        )


def _form(source: Source, form: str | None, file_format: str | None) -> str:
    """Return the form to restore: the full one where the checkpoint has it and none is named."""
    if isinstance(source, ForeignSource):
        return form or "full"
    manifest = source.found.manifest
    chosen = form or ("full" if file_format or "full" in manifest.forms else "split")
    if chosen == "full" and manifest.full_format is None:
        raise FormNotFoundError(
            f"The checkpoint {source.name} holds the split form only. "
            "Restore it with --form split.",
            available=manifest.forms,
        )
    return chosen


def _restore_full(
    directory: Path,
    manifest: Manifest,
    staging: Path,
    file_format: str,
    custom_objects: Mapping[str, Any] | None,
) -> int:
    from mlflow_ckpt._model.capture import stock_save
    from mlflow_ckpt._model.rebuild import model_loader

    # Rebuilding proves that the file works here and now, not only that its bytes are right.
    model = model_loader.load_full(directory, manifest, custom_objects)
    path = staging / FILES[file_format]
    fingerprint = Fingerprint.from_json((directory / layout.FINGERPRINT).read_bytes())
    if file_format == manifest.full_format:
        shutil.copyfile(directory / str(manifest.full_file), path)
    elif file_format == "saved_model":
        _export(model, path)
    else:
        stock_save.save_stock(model, path)
        _prove(path, fingerprint)
    return len(fingerprint.tensors)


def _restore_split(
    directory: Path,
    manifest: Manifest,
    staging: Path,
    custom_objects: Mapping[str, Any] | None,
) -> int:
    from mlflow_ckpt._model.rebuild import model_loader

    model = model_loader.load_split(directory, manifest, custom_objects)
    if manifest.full_format == "keras" and has_assets(directory / layout.FULL_KERAS):
        raise UnsupportedModelError(
            "The model has layers that keep files beside their weights, such as an adapted "
            "vocabulary, which the split form does not hold. Restore it with --form full."
        )
    path = staging / layout.WEIGHTS
    if "split" in manifest.forms:
        shutil.copyfile(directory / layout.WEIGHTS, path)
    else:
        model.save_weights(path)
    fingerprint = Fingerprint.from_json((directory / layout.FINGERPRINT).read_bytes())
    _prove(path, Fingerprint(fingerprint.of_role(WEIGHTS_ROLE)))
    return len(fingerprint.of_role(WEIGHTS_ROLE))


def _export(model: keras.Model, path: Path) -> None:
    import keras

    if keras.config.backend() != "tensorflow":
        raise InvalidArgumentError(
            "A SavedModel can be made with Keras's TensorFlow backend only. Received: "
            f"{keras.config.backend()}. Set KERAS_BACKEND=tensorflow, or restore as --format keras."
        )
    model.export(path, format="tf_saved_model", verbose=False)


def _prove(path: Path, fingerprint: Fingerprint) -> None:
    """Compare the tensors in a converted file with the fingerprint."""
    differing = damaged_tensors(path, {t.name: t.digest for t in fingerprint.tensors})
    if differing:
        raise FingerprintMismatchError(
            f"{path.name} does not hold what was saved: {', '.join(differing[:5])} differ. "
            "Keras cannot keep this model in that format; restore it as --format keras.",
            tensors=differing,
        )
