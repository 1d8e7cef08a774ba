"""The command line `mlflow-ckpt`. One small function a command; each imports what it needs."""

from __future__ import annotations

import json
from pathlib import Path

import click

from mlflow_ckpt import __version__, errors
from mlflow_ckpt._cli import options
from mlflow_ckpt._cli.application import EXIT_CODES, OWN_ENVIRONMENT, Application


@click.group(cls=Application, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mlflow-ckpt")
def main() -> None:
    """Keras checkpoints in MLflow runs: list, show, verify, restore, resume, predict, prune, diff.

    RUN is a run id, or a URI: ckpt:/RUN_ID/best, runs:/RUN_ID/checkpoints/epoch_0003, or
    models:/NAME@ALIAS.
    """


@main.command("list")
@click.argument("run")
@options.tracking_uri
@options.as_json
def list_command(run: str, tracking_uri: str | None, as_json: bool) -> None:
    """List the checkpoints of RUN, oldest first, and what of it waits in the spool."""
    from mlflow_ckpt._cli import listing, waiting

    try:
        found = listing.collect(run, tracking_uri)
    except errors.TrackingError:
        # The spool is on this machine, whatever the server is doing.
        waiting.show(run)
        raise
    click.echo(json.dumps(found.to_dict(), indent=2) if as_json else found.to_text(), nl=as_json)


@main.command()
@click.argument("run")
@click.argument("checkpoint", default="latest")
@options.tracking_uri
@options.as_json
def show(run: str, checkpoint: str, tracking_uri: str | None, as_json: bool) -> None:
    """Show the manifest and the fingerprint of a checkpoint of RUN."""
    from mlflow_ckpt._cli import listing

    shown = listing.describe(run, checkpoint, tracking_uri)
    click.echo(json.dumps(shown.to_dict(), indent=2) if as_json else shown.to_text(), nl=as_json)


@main.command()
@click.argument("run")
@options.selection
@click.option("--all", "every", is_flag=True, help="Verify every checkpoint of the run.")
@options.tracking_uri
@options.as_json
def verify(
    run: str,
    checkpoint: str,
    monitor: str | None,
    mode: str | None,
    every: bool,
    tracking_uri: str | None,
    as_json: bool,
) -> None:
    """Compare every file of a checkpoint of RUN with its manifest."""
    if every and checkpoint != "latest":
        raise click.UsageError("--all and --checkpoint contradict each other. Leave one out.")
    from mlflow_ckpt._cli import listing
    from mlflow_ckpt._cli.progress import download_bar

    with download_bar() as progress:
        results = listing.verify(
            run,
            None if every else checkpoint,
            monitor=monitor,
            mode=mode,
            tracking_uri=tracking_uri,
            progress=progress,
        )
    if as_json:
        click.echo(json.dumps([result.to_dict() for result in results], indent=2))
    else:
        for result in results:
            click.echo(str(result))
    if not all(result.ok for result in results):
        raise click.exceptions.Exit(EXIT_CODES[errors.IntegrityError])


@main.command(short_help="Rebuild a checkpoint of RUN as files, verified.")
@click.argument("run")
@options.selection
@click.option(
    "--form",
    type=click.Choice(["full", "split"]),
    help="full: one file with everything. split: architecture and weights apart. "
    "Default: full where the checkpoint has it.",
)
@click.option(
    "--format",
    "file_format",
    type=click.Choice(["keras", "h5", "saved_model"]),
    help="Of the full form. Default: as it was saved.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="Directory to write to. Default: the checkpoint's name.",
)
@click.option("--overwrite", is_flag=True, help="Replace files of the same names in it.")
@options.custom_objects
@options.architecture
@options.tracking_uri
@options.as_json
def restore(
    run: str,
    checkpoint: str,
    monitor: str | None,
    mode: str | None,
    form: str | None,
    file_format: str | None,
    output: Path | None,
    overwrite: bool,
    modules: tuple[str, ...],
    architecture: Path | None,
    tracking_uri: str | None,
    as_json: bool,
) -> None:
    """Rebuild a checkpoint of RUN, verified, as files that stock Keras opens."""
    from mlflow_ckpt._cli import restoring
    from mlflow_ckpt._cli.custom_objects import load_modules
    from mlflow_ckpt._cli.progress import download_bar
    from mlflow_ckpt._loading.sources import Opening

    with download_bar() as progress:
        restored = restoring.restore(
            run,
            checkpoint,
            monitor=monitor,
            mode=mode,
            form=form,
            file_format=file_format,
            output=output,
            overwrite=overwrite,
            opening=Opening(load_modules(modules), architecture, progress),
            tracking_uri=tracking_uri,
        )
    click.echo(json.dumps(restored.to_dict(), indent=2) if as_json else restored.to_text())


@main.command(short_help="Predict on a file with the model of a checkpoint of RUN.")
@click.argument("run")
@click.argument("data", metavar="INPUT", type=click.Path(path_type=Path))
@options.selection
@click.option("--array", metavar="NAME", help="Which array of an .npz INPUT to predict on.")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="File to write: .csv, .jsonl, .npy or .npz. Default: CSV to standard output.",
)
@click.option("--overwrite", is_flag=True, help="Replace the output file if it exists.")
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=32,
    show_default=True,
    metavar="N",
    help="Samples a batch; as with Model.predict, the last bits of a result depend on it.",
)
@options.custom_objects
@options.architecture
@options.tracking_uri
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines instead of CSV.")
def predict(
    run: str,
    data: Path,
    checkpoint: str,
    monitor: str | None,
    mode: str | None,
    array: str | None,
    output: Path | None,
    overwrite: bool,
    batch_size: int,
    modules: tuple[str, ...],
    architecture: Path | None,
    tracking_uri: str | None,
    as_json: bool,
) -> None:
    """Predict on INPUT (.npy, .npz or .csv) with the model of a checkpoint of RUN.

    Gives a class and its probability for a classifier, else the model's values.
    """
    from mlflow_ckpt._cli import inputs, predicting, predictions
    from mlflow_ckpt._cli.custom_objects import load_modules
    from mlflow_ckpt._cli.progress import download_bar
    from mlflow_ckpt._loading.sources import Opening

    writer = predictions.writer_for(output, as_json=as_json, overwrite=overwrite)
    given = inputs.read_inputs(data, array)
    with download_bar() as progress:
        model, class_names = predicting.load(
            run,
            checkpoint,
            monitor=monitor,
            mode=mode,
            opening=Opening(load_modules(modules), architecture, progress),
            tracking_uri=tracking_uri,
        )
    writer(predicting.predict(model, given, class_names, batch_size))


@main.command(short_help="Go on training from a checkpoint of RUN.")
@click.argument("run")
@options.selection
@click.option(
    "--epochs", type=click.IntRange(min=1), required=True, metavar="N", help="Epochs in all."
)
@click.option("--in-place", is_flag=True, help="Go on in the same run. Default: in a new one.")
@click.option(
    "--project", metavar="URI", help="The project's directory or repository. Default: as recorded."
)
@click.option(
    "--env-manager",
    "environment",
    type=click.Choice(["local", "virtualenv", "uv", "conda"]),
    help="As of mlflow run. Default: as recorded.",
)
@options.tracking_uri
def resume(
    run: str,
    checkpoint: str,
    monitor: str | None,
    mode: str | None,
    epochs: int,
    in_place: bool,
    project: str | None,
    environment: str | None,
    tracking_uri: str | None,
) -> None:
    """Start the MLflow Project that made RUN again, from one of its checkpoints.

    For a run that no project made, print the lines of Python that go on from there.
    """
    from mlflow_ckpt._cli import resuming

    resumption = resuming.prepare(
        run,
        checkpoint,
        epochs=epochs,
        in_place=in_place,
        monitor=monitor,
        mode=mode,
        project=project,
        environment=environment,
        tracking_uri=tracking_uri,
    )
    click.echo(resumption.to_text())
    resumption.start(click.get_current_context().meta[OWN_ENVIRONMENT])


@main.command(short_help="Remove checkpoints of RUN that are not worth keeping.")
@click.argument("run")
@click.option("--keep-last", type=click.IntRange(min=1), metavar="N", help="Keep the newest N.")
@click.option("--keep-best", type=click.IntRange(min=1), metavar="N", help="Keep the best N.")
@click.option(
    "--keep-every",
    type=click.IntRange(min=1),
    metavar="N",
    help="Keep those saved at the end of every N-th epoch.",
)
@click.option("--monitor", metavar="METRIC", help="For --keep-best: the metric to judge by.")
@click.option("--mode", type=click.Choice(["min", "max"]), help="For --keep-best: which way.")
@click.option("--dry-run", is_flag=True, help="Tell what would be removed, and do nothing.")
@options.tracking_uri
@options.as_json
def prune(
    run: str,
    keep_last: int | None,
    keep_best: int | None,
    keep_every: int | None,
    monitor: str | None,
    mode: str | None,
    dry_run: bool,
    tracking_uri: str | None,
    as_json: bool,
) -> None:
    """Remove the checkpoints of RUN that none of the --keep options keeps.

    The latest, the best, and those that registered models use always stay.
    """
    if (monitor or mode) and keep_best is None:
        raise click.UsageError("--monitor and --mode tell what is best. Add --keep-best N.")
    if keep_last is None and keep_best is None and keep_every is None:
        raise click.UsageError("Say what to keep: --keep-last N, --keep-best N, --keep-every N.")
    from mlflow_ckpt._cli import pruning
    from mlflow_ckpt._tracking.prune import prune as prune_run

    policy = pruning.policy(keep_last, keep_best, keep_every, monitor, mode)
    pruned = prune_run(run, policy, dry_run=dry_run, tracking_uri=tracking_uri)
    text = json.dumps(pruning.to_dict(pruned), indent=2) if as_json else pruning.to_text(pruned)
    click.echo(text, nl=as_json)


@main.command("import", short_help="Bring files of ModelCheckpoint into a run.")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--run-id", "run", required=True, help="The run that is to have them.")
@click.option("--pattern", help="How the names are made, as ModelCheckpoint was told.")
@click.option(
    "--architecture",
    type=click.Path(path_type=Path),
    help="For .weights.h5: a .json, .yaml or .keras file with the architecture.",
)
@click.option("--monitor", metavar="METRIC", help="What tells the best. Default: val_loss.")
@click.option("--mode", type=click.Choice(["min", "max"]), help="Whether low or high is better.")
@click.option("--dry-run", is_flag=True, help="Tell what would be done, and save nothing.")
@options.custom_objects
@options.tracking_uri
def import_command(
    directory: Path,
    run: str,
    pattern: str | None,
    architecture: Path | None,
    monitor: str | None,
    mode: str | None,
    dry_run: bool,
    modules: tuple[str, ...],
    tracking_uri: str | None,
) -> None:
    """Bring the .keras, .h5 and .weights.h5 files in DIR into a run, as checkpoints of it."""
    from mlflow_ckpt._cli import importing

    failed = importing.run(
        directory,
        run,
        pattern=pattern,
        architecture=architecture,
        monitor=monitor,
        mode=mode,
        dry_run=dry_run,
        modules=modules,
        tracking_uri=tracking_uri,
    )
    if failed:
        raise click.exceptions.Exit(EXIT_CODES[errors.ModelError])


@main.command(short_help="Make a checkpoint of RUN a version of a registered model.")
@click.argument("run")
@options.selection
@click.option("--name", required=True, help="The registered model; made if there is none.")
@click.option("--alias", help="Have this alias point at the version, such as champion.")
@options.tracking_uri
@options.as_json
def register(
    run: str,
    checkpoint: str,
    monitor: str | None,
    mode: str | None,
    name: str,
    alias: str | None,
    tracking_uri: str | None,
    as_json: bool,
) -> None:
    """Make a checkpoint of RUN a version of a registered model, which points at its files."""
    from mlflow_ckpt._cli import registering
    from mlflow_ckpt._tracking.registry.register import register as register_checkpoint

    registered = register_checkpoint(
        run,
        checkpoint,
        name=name,
        alias=alias,
        monitor=monitor,
        mode=mode,
        tracking_uri=tracking_uri,
    )
    told = registering.to_dict(registered)
    click.echo(json.dumps(told, indent=2) if as_json else registering.to_text(registered))


@main.command(short_help="Send what waits in the spool.")
@click.argument("run", required=False)
@click.option(
    "--tracking-uri",
    metavar="URI",
    help="Send to this server. Default: the one that training used.",
)
@options.as_json
def flush(run: str | None, tracking_uri: str | None, as_json: bool) -> None:
    """Send what waits in this machine's spool, of RUN or of all runs.

    Safe to repeat, and while a training or another flush is sending.
    """
    from mlflow_ckpt._cli import flushing
    from mlflow_ckpt._cli.progress import upload_bar

    with upload_bar() as progress:
        flushed = flushing.flush(run, tracking_uri, progress)
    click.echo(
        json.dumps(flushed.to_dict(), indent=2) if as_json else flushed.to_text(), nl=as_json
    )
    flushed.raise_if_left()


@main.command(short_help="Compare two checkpoints, tensor by tensor.")
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.option("--all", "every", is_flag=True, help="List the identical tensors too.")
@options.custom_objects
@options.architecture
@options.tracking_uri
@options.as_json
def diff(
    a: str,
    b: str,
    every: bool,
    modules: tuple[str, ...],
    architecture: Path | None,
    tracking_uri: str | None,
    as_json: bool,
) -> None:
    """Compare the checkpoints A and B: all tensors and the architecture.

    A and B are run ids (the latest checkpoint) or URIs such as ckpt:/RUN_ID/4. The exit code is 0
    if they are identical, and 1 if they differ.
    """
    from mlflow_ckpt._cli import diffing
    from mlflow_ckpt._cli.custom_objects import load_modules
    from mlflow_ckpt._cli.progress import download_bar
    from mlflow_ckpt._loading.sources import Opening

    with download_bar() as progress:
        found = diffing.compare(
            a, b, Opening(load_modules(modules), architecture, progress), tracking_uri
        )
    text = json.dumps(found.to_dict(), indent=2) if as_json else diffing.to_text(found, every=every)
    click.echo(text, nl=as_json)
    if not found.identical:
        raise click.exceptions.Exit(diffing.DIFFERENT)


@main.command()
@click.argument("run")
@click.argument("other", required=False, metavar="[RUN2]")
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    default="report.html",
    show_default=True,
    help="The file to write.",
)
@click.option("--overwrite", is_flag=True, help="Replace the file if it exists.")
@options.tracking_uri
def report(
    run: str, other: str | None, output: Path, overwrite: bool, tracking_uri: str | None
) -> None:
    """Write a page of RUN, or of two runs side by side: curves, weights, architecture."""
    from mlflow_ckpt._cli import reporting
    from mlflow_ckpt._cli.progress import download_bar

    runs = [run] if other is None else [run, other]
    with download_bar() as progress:
        size = reporting.write(
            runs, output, overwrite=overwrite, tracking_uri=tracking_uri, progress=progress
        )
    click.echo(f"{output}  {size / 1e3:.0f} kB")
