"""The public functions that read checkpoints: list, verify, load."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mlflow_ckpt._format import layout
from mlflow_ckpt._format.fingerprint import Fingerprint
from mlflow_ckpt._format.reference import Query
from mlflow_ckpt._format.signing.trust import SignedBy
from mlflow_ckpt._format.verification import VerificationResult
from mlflow_ckpt._loading.convert import converter
from mlflow_ckpt._tracking.catalog import Catalog
from mlflow_ckpt._tracking.checkpoint import Checkpoint
from mlflow_ckpt._tracking.download import Progress
from mlflow_ckpt._tracking.find import find
from mlflow_ckpt._tracking.removed import again_if_removed
from mlflow_ckpt.errors import InvalidArgumentError

if TYPE_CHECKING:
    import keras

    from mlflow_ckpt._model.rebuild.compiling import Compile
    from mlflow_ckpt._model.rebuild.fill import LoadReport

CustomObjects = Mapping[str, Any] | None


def list_checkpoints(run_id: str, *, tracking_uri: str | None = None) -> list[Checkpoint]:
    """List the complete checkpoints of a run, oldest first.

    Args:
        run_id: A run id.
        tracking_uri: The tracking server; MLflow's current one if None.

    Raises:
        RunNotFoundError: If the run does not exist.
        ManifestError: If the manifest of a checkpoint cannot be read.
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
    """Find one checkpoint of a run, reading manifests only.

    Args:
        run_id: A run id, or a URI: `ckpt:/…`, `runs:/…` or `models:/…` (docs/cli.md).
        checkpoint: `"latest"` (the default), `"best"`, `3` or `"epoch:3"`, `"step:1500"`.
        monitor: For `"best"`, the metric to rank by; the recorded one if None.
        mode: For `"best"`, `"min"` or `"max"`.
        tracking_uri: The tracking server; MLflow's current one if None.

    Raises:
        SelectorError: If `run_id` or `checkpoint` cannot be parsed.
        RunNotFoundError, CheckpointNotFoundError: If the run or checkpoint does not exist.
        MetricNotFoundError: If no checkpoint recorded the metric of `"best"`.
        TrackingError: If the server fails.
    """
    return find(Query(run_id, checkpoint, monitor, mode, tracking_uri)).checkpoint


@again_if_removed
def verify(
    run_id: str,
    checkpoint: str | int = "latest",
    *,
    monitor: str | None = None,
    mode: str | None = None,
    tracking_uri: str | None = None,
    signed_by: SignedBy = (),
    progress: Progress | None = None,
) -> VerificationResult:
    """Compare every file of a checkpoint with its manifest. Errors as in `get_checkpoint`.

    Args:
        run_id: A run id, or a URI: `ckpt:/…`, `runs:/…` or `models:/…` (docs/cli.md).
        checkpoint: `"latest"` (the default), `"best"`, `3` or `"epoch:3"`, `"step:1500"`.
        monitor: For `"best"`, the metric to rank by; the recorded one if None.
        mode: For `"best"`, `"min"` or `"max"`.
        tracking_uri: The tracking server; MLflow's current one if None.
        signed_by: By whom the checkpoint must be signed (docs/signing.md).
        progress: Called with bytes done and total bytes if files are downloaded.

    Returns:
        The missing, extra and altered files and tensors; `result.ok` if there are none.
    """
    return find(Query(run_id, checkpoint, monitor, mode, tracking_uri, signed_by)).verify(progress)


@again_if_removed
def load_model(
    run_id: str,
    checkpoint: str | int = "latest",
    form: str = "full",
    custom_objects: CustomObjects = None,
    *,
    monitor: str | None = None,
    mode: str | None = None,
    allow_unverified: bool = False,
    compile: bool | Compile = True,  # noqa: A002 - Keras's word
    tracking_uri: str | None = None,
    signed_by: SignedBy = (),
    progress: Progress | None = None,
) -> keras.Model:
    """Rebuild the model of a checkpoint, and verify every file and tensor.

    Args:
        run_id: A run id, or a URI: `ckpt:/…`, `runs:/…` or `models:/…` (docs/cli.md).
        checkpoint: `"latest"` (the default), `"best"`, `3` or `"epoch:3"`, `"step:1500"`.
        form: `"full"` loads architecture, weights, optimizer and compile settings, ready for
            `fit`; `"split"` loads architecture and weights, uncompiled.
        custom_objects: Custom classes and functions of the model by name, unless registered with
            Keras.
        monitor: For `"best"`, the metric to rank by; the recorded one if None.
        mode: For `"best"`, `"min"` or `"max"`.
        allow_unverified: If the run has no matching checkpoint, also load models saved by other
            tools, such as `mlflow.keras.log_model` or MLflow's callback, unverified.
        compile: For the full form: whether to compile the model as it was compiled when saved, and
            to load its optimizer. Or a function that takes the uncompiled model and compiles it.
        tracking_uri: The tracking server; MLflow's current one if None.
        signed_by: By whom the checkpoint must be signed (docs/signing.md).
        progress: Called with bytes done and total bytes if files are downloaded.

    Raises:
        VerificationError: If a file is missing, extra or altered.
        SignatureError: If the checkpoint is not signed by whom it must be.
        FormNotFoundError: If the checkpoint was saved without the full form.
        UnknownObjectError, ModelLoadError: If Keras cannot rebuild the model.
        FingerprintMismatchError: If a tensor differs from the saved one.
        NotFoundError, SelectorError, TrackingError: As in `get_checkpoint`.
    """
    if form not in layout.FORMS:
        raise InvalidArgumentError(f"Expected form 'full' or 'split'. Received: form={form!r}")

    query = Query(run_id, checkpoint, monitor, mode, tracking_uri, signed_by)
    found = find(query, converter(custom_objects)) if allow_unverified else find(query)
    with found.open(progress) as opened:
        from mlflow_ckpt._model.rebuild import model_loader

        place = opened.directory, opened.manifest
        if form == "split":
            return model_loader.load_split(*place, custom_objects)
        return model_loader.load_full(*place, custom_objects, compile)


@again_if_removed
def load_architecture(
    run_id: str,
    checkpoint: str | int = "latest",
    custom_objects: CustomObjects = None,
    *,
    monitor: str | None = None,
    mode: str | None = None,
    tracking_uri: str | None = None,
    signed_by: SignedBy = (),
) -> keras.Model:
    """Build the model of a checkpoint with newly initialized weights, uncompiled.

    Arguments and errors as in `load_model`.
    """
    with find(Query(run_id, checkpoint, monitor, mode, tracking_uri, signed_by)).open() as opened:
        from mlflow_ckpt._model.rebuild import model_loader

        return model_loader.load_architecture(opened.directory, custom_objects)


@again_if_removed
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
    signed_by: SignedBy = (),
) -> LoadReport:
    """Load a checkpoint's weights into an existing model.

    Tensors are matched by their position in the model's structure, and converted to the model's
    dtypes, as in `keras.Model.load_weights`. The optimizer is not changed.

    Args:
        model: A built model.
        run_id: A run id, or a URI: `ckpt:/…`, `runs:/…` or `models:/…` (docs/cli.md).
        checkpoint: `"latest"` (the default), `"best"`, `3` or `"epoch:3"`, `"step:1500"`.
        skip_mismatch: Load the tensors that fit and skip the rest (transfer learning). If False,
            the model is only changed if all tensors fit.
        custom_objects: Needed only if the checkpoint's only form is legacy HDF5.
        monitor: For `"best"`, the metric to rank by; the recorded one if None.
        mode: For `"best"`, `"min"` or `"max"`.
        tracking_uri: The tracking server; MLflow's current one if None.
        signed_by: By whom the checkpoint must be signed (docs/signing.md).

    Returns:
        The loaded and the skipped tensors, and which were converted.

    Raises:
        WeightsMismatchError: If a tensor does not fit and `skip_mismatch` is False.
        VerificationError, SignatureError, NotFoundError, SelectorError, TrackingError: As in
            `load_model`.
    """
    with find(Query(run_id, checkpoint, monitor, mode, tracking_uri, signed_by)).open() as opened:
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

    It equals the fingerprint of the model's checkpoint, in any process, also after reloading.

    Args:
        model: A built model. The architecture's digest is None if it cannot be serialized.

    Raises:
        UnsupportedModelError: If the model is not built.
    """
    from mlflow_ckpt._model.capture import introspection

    return introspection.fingerprint(model)
