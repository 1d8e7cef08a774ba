"""The public functions that read checkpoints: list, verify, load."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mlflow_ckpt._format import layout
from mlflow_ckpt._format.fingerprint import Fingerprint
from mlflow_ckpt._format.query import Query
from mlflow_ckpt._format.verification import VerificationResult
from mlflow_ckpt._loading.convert import converter
from mlflow_ckpt._tracking.catalog import Catalog
from mlflow_ckpt._tracking.checkpoint import Checkpoint
from mlflow_ckpt._tracking.download import Progress
from mlflow_ckpt._tracking.find import find
from mlflow_ckpt.errors import InvalidArgumentError

if TYPE_CHECKING:
    import keras

    from mlflow_ckpt._model.rebuild.fill import LoadReport

CustomObjects = Mapping[str, Any] | None


def list_checkpoints(run_id: str, *, tracking_uri: str | None = None) -> list[Checkpoint]:
    """List the complete checkpoints of a run, oldest first.

    Args:
        run_id: A run id.
        tracking_uri: The tracking server; MLflow's current one if None.

    Raises:
        RunNotFoundError: If there is no such run.
        ManifestError: If a checkpoint has a manifest that cannot be read.
        TrackingError: If the server fails.
    """
    return Catalog.of(run_id, tracking_uri).checkpoints()


def get_checkpoint(
    run_id: str,
    checkpoint: str | int = "latest",
    *,
    monitor: str | None = None,
    mode: str | None = None,
    tracking_uri: str | None = None,
) -> Checkpoint:
    """Find one checkpoint of a run, without reading more than its manifest.

    Args:
        run_id: A run id, or a URI: `ckpt:/…`, `runs:/…` or `models:/…` (docs/cli.md).
        checkpoint: `"latest"` (the default), `"best"`, `3` or `"epoch:3"`, `"step:1500"`.
        monitor: For `"best"`, the metric to judge by; the recorded one if None.
        mode: For `"best"`, `"min"` or `"max"`.
        tracking_uri: The tracking server; MLflow's current one if None.

    Raises:
        SelectorError: If `run_id` or `checkpoint` does not parse.
        RunNotFoundError, CheckpointNotFoundError: If there is no such run or checkpoint.
        MetricNotFoundError: If `"best"` is asked for by a metric that was never recorded.
        TrackingError: If the server fails.
    """
    return find(Query(run_id, checkpoint, monitor, mode, tracking_uri)).checkpoint


def verify(
    run_id: str,
    checkpoint: str | int = "latest",
    *,
    monitor: str | None = None,
    mode: str | None = None,
    tracking_uri: str | None = None,
    progress: Progress | None = None,
) -> VerificationResult:
    """Compare every file of a checkpoint with its manifest.

    Args:
        run_id: A run id, or a URI: `ckpt:/…`, `runs:/…` or `models:/…` (docs/cli.md).
        checkpoint: `"latest"` (the default), `"best"`, `3` or `"epoch:3"`, `"step:1500"`.
        monitor: For `"best"`, the metric to judge by; the recorded one if None.
        mode: For `"best"`, `"min"` or `"max"`.
        tracking_uri: The tracking server; MLflow's current one if None.
        progress: Called with bytes done and bytes in all, where files are downloaded.

    Returns:
        What is missing, extra or altered, down to the tensor; `result.ok` if nothing is.
    """
    return find(Query(run_id, checkpoint, monitor, mode, tracking_uri)).verify(progress)


def load_model(
    run_id: str,
    checkpoint: str | int = "latest",
    form: str = "full",
    custom_objects: CustomObjects = None,
    *,
    monitor: str | None = None,
    mode: str | None = None,
    allow_unverified: bool = False,
    tracking_uri: str | None = None,
    progress: Progress | None = None,
) -> keras.Model:
    """Rebuild the model of a checkpoint, verified file by file and tensor by tensor.

    Args:
        run_id: A run id, or a URI: `ckpt:/…`, `runs:/…` or `models:/…` (docs/cli.md).
        checkpoint: `"latest"` (the default), `"best"`, `3` or `"epoch:3"`, `"step:1500"`.
        form: `"full"` gives architecture, weights, optimizer and compile settings, ready for
            `fit`; `"split"` gives architecture and weights, uncompiled.
        custom_objects: Classes and functions by name, which the model uses and which are not
            registered with Keras.
        monitor: For `"best"`, the metric to judge by; the recorded one if None.
        mode: For `"best"`, `"min"` or `"max"`.
        allow_unverified: Take what others wrote too, such as `mlflow.keras.log_model` or MLflow's
            own callback, where this package has no checkpoint of that name. Nothing proves it.
        tracking_uri: The tracking server; MLflow's current one if None.
        progress: Called with bytes done and bytes in all, where files are downloaded.

    Raises:
        VerificationError: If a file is missing, extra or altered.
        FormNotFoundError: If the checkpoint was saved without the full form.
        UnknownObjectError, ModelLoadError: If Keras cannot rebuild the model.
        FingerprintMismatchError: If a tensor is not the one that was saved.
        NotFoundError, SelectorError, TrackingError: As in `get_checkpoint`.
    """
    if form not in layout.FORMS:
        raise InvalidArgumentError(f"Expected form 'full' or 'split'. Received: form={form!r}")

    query = Query(run_id, checkpoint, monitor, mode, tracking_uri)
    checkpoint_ = find(query, converter(custom_objects)) if allow_unverified else find(query)
    with checkpoint_.open(progress) as opened:
        from mlflow_ckpt._model.rebuild import model_loader

        load = model_loader.load_full if form == "full" else model_loader.load_split
        return load(opened.directory, opened.manifest, custom_objects)


def load_architecture(
    run_id: str,
    checkpoint: str | int = "latest",
    custom_objects: CustomObjects = None,
    *,
    monitor: str | None = None,
    mode: str | None = None,
    tracking_uri: str | None = None,
) -> keras.Model:
    """Build the model of a checkpoint with fresh weights, uncompiled.

    Arguments and errors as in `load_model`.
    """
    with find(Query(run_id, checkpoint, monitor, mode, tracking_uri)).open() as opened:
        from mlflow_ckpt._model.rebuild import model_loader

        return model_loader.load_architecture(opened.directory, custom_objects)


def load_weights(
    model: keras.Model,
    run_id: str,
    checkpoint: str | int = "latest",
    *,
    skip_mismatch: bool = False,
    custom_objects: CustomObjects = None,
    monitor: str | None = None,
    mode: str | None = None,
    tracking_uri: str | None = None,
) -> LoadReport:
    """Copy a checkpoint's weights into a model that you built.

    Tensors meet by their place in the model's structure, as in `keras.Model.load_weights`. The
    optimizer is left alone.

    Args:
        model: A built model.
        run_id: A run id, or a URI: `ckpt:/…`, `runs:/…` or `models:/…` (docs/cli.md).
        checkpoint: `"latest"` (the default), `"best"`, `3` or `"epoch:3"`, `"step:1500"`.
        skip_mismatch: Load what fits and leave the rest (transfer learning). Otherwise nothing is
            touched unless everything fits.
        custom_objects: Needed only where the checkpoint has nothing but legacy HDF5.
        monitor: For `"best"`, the metric to judge by; the recorded one if None.
        mode: For `"best"`, `"min"` or `"max"`.
        tracking_uri: The tracking server; MLflow's current one if None.

    Returns:
        What was loaded and what was not, tensor by tensor.

    Raises:
        WeightsMismatchError: If a tensor does not fit and `skip_mismatch` is False.
        VerificationError, NotFoundError, SelectorError, TrackingError: As in `load_model`.
    """
    with find(Query(run_id, checkpoint, monitor, mode, tracking_uri)).open() as opened:
        from mlflow_ckpt._model.rebuild import fill

        return fill.fill(
            model,
            opened.directory,
            opened.manifest,
            skip_mismatch=skip_mismatch,
            custom_objects=custom_objects,
        )


def fingerprint(model: keras.Model) -> Fingerprint:
    """Fingerprint a live model: digests and statistics of all weights and optimizer variables.

    It equals that of the model's checkpoint, in every process, before and after a reload.

    Args:
        model: A built model. Its architecture's digest is None if it cannot describe itself.

    Raises:
        UnsupportedModelError: If the model is not built.
    """
    from mlflow_ckpt._model.capture import introspection

    return introspection.fingerprint(model)
