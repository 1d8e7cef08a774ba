"""What a model keeps of `compile`, and its metrics.

- `Model._compile_config.config` is repaired after a legacy save. Fallback: no repair.
- `Model._compile_config.config` also holds the arguments of `compile`. Fallback: the user's
  functions among them are unknown, and so are those that a model keeps in no attribute.
- `Model._compile_config` is another object after each `compile`. Fallback: the
  settings of a later `compile` count as changes of the first one's.
- `Layer._tracker` is unlocked while a built model is compiled again. Fallback: a class whose own
  `compile` creates metrics cannot be compiled again.
- `Model._symbolic_build` creates the metrics of an `EpochDataset` within an epoch. No fallback:
  `PrivateApiError` ends `fit`.
- `Model._symbolic_build`, which the first `fit` on JAX and PyTorch calls, calls the user's code.
  Fallback: state in Python that this changes is not put back before a resumed training.
- `CompileMetrics._user_metrics` and `_user_weighted_metrics` lead to metrics that are no attribute.
  Fallback: they are not looked at.
- `Metric._direction` is `"up"` or `"down"`. Fallback: inferred from the metric's name.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import keras

from mlflow_ckpt._model.keras_private.keras_version import PrivateApiError


def compile_arguments(model: keras.Model) -> dict[str, Any]:
    """Return the arguments that Keras's `compile` was called with; empty if unknown."""
    return dict(_arguments(model) or {})


def compiled_settings(model: keras.Model) -> Any:
    """Return an object that each call of `compile` replaces; None if unknown."""
    return getattr(model, "_compile_config", None)


def repair_compile_settings(model: keras.Model) -> None:
    """Restore the optimizer in a model's compile settings after `model.save("x.h5")`.

    Keras 3.15 removes it: the next `.keras` file names none, and loads with RMSprop.
    """
    optimizer = getattr(model, "optimizer", None)
    config = _arguments(model)
    if optimizer is not None and config is not None and "optimizer" not in config:
        config["optimizer"] = optimizer


def _arguments(model: keras.Model) -> dict[str, Any] | None:
    config = getattr(compiled_settings(model), "config", None)
    return config if isinstance(config, dict) else None


@contextmanager
def unlocked(model: keras.Model) -> Iterator[None]:
    """Let a built model take new metrics and variables, as one does that is compiled first."""
    tracker: Any = getattr(model, "_tracker", None)
    if not getattr(tracker, "locked", False):
        yield
        return
    tracker.unlock()
    try:
        yield
    finally:
        tracker.lock()


def runs_compiled(model: keras.Model) -> bool:
    """Whether the training step runs as a graph, which Python's code only made."""
    if getattr(model, "run_eagerly", False):
        return False
    if keras.config.backend() == "torch":
        return bool(getattr(model, "jit_compile", False))
    tensorflow = sys.modules.get("tensorflow")
    return tensorflow is None or not tensorflow.config.functions_run_eagerly()


def metrics_given(model: keras.Model) -> dict[str, Any]:
    """Return the metrics that a model was compiled with, by the argument of `compile`."""
    compiled = getattr(model, "_compile_metrics", None)
    return {
        "metrics": getattr(compiled, "_user_metrics", None),
        "weighted_metrics": getattr(compiled, "_user_weighted_metrics", None),
    }


def metrics_results(model: keras.Model) -> dict[str, float]:
    """Return the values of a model's metrics; none if Keras has no `get_metrics_result`."""
    get = getattr(model, "get_metrics_result", dict)
    return {name: float(keras.ops.convert_to_numpy(value)) for name, value in get().items()}


def build_metrics(model: keras.Model, batch: Any) -> None:
    """Create the variables of a compiled model's metrics, as the first step does.

    Args:
        model: A built model.
        batch: A batch of its data: (x, y) or (x, y, sample_weight).

    Raises:
        PrivateApiError: If Keras has no `_symbolic_build`.
    """
    if not hasattr(model, "_symbolic_build"):
        raise PrivateApiError("keras.Model has no _symbolic_build")
    model._symbolic_build(data_batch=batch)


def reset_unbuilt_metrics(model: keras.Model) -> None:
    """Reset the metrics that a model was compiled with, as `fit` does once they are built.

    Until the first step, Keras leaves them as they are, also those whose state was restored.
    """
    compiled = getattr(model, "_compile_metrics", None)
    if compiled is None or compiled.built:
        return
    for metric in keras.tree.flatten(list(metrics_given(model).values())):
        if isinstance(metric, keras.metrics.Metric):
            metric.reset_state()


def around_building(model: keras.Model, around: Callable[[], AbstractContextManager[None]]) -> None:
    """Enter a context while the next `fit` builds what `compile` left unbuilt, if it does.

    TensorFlow's `fit` does not.
    """
    if keras.config.backend() == "tensorflow" or not hasattr(model, "_symbolic_build"):
        return

    def build(*arguments: Any, **keywords: Any) -> Any:
        end_around_building(model)
        with around():
            return model._symbolic_build(*arguments, **keywords)

    # Not by setattr, which PyTorch and Keras observe.
    vars(model)["_symbolic_build"] = build


def end_around_building(model: keras.Model) -> None:
    """Forget what `around_building` was to do, if it has not been done."""
    vars(model).pop("_symbolic_build", None)


def metric_direction(model: keras.Model, name: str) -> str | None:
    """Return `"min"` or `"max"` as the metric object declares it; None if unknown."""
    wanted = name.removeprefix("val_")
    for metric in _flatten(getattr(model, "metrics", [])):
        if getattr(metric, "name", None) == wanted:
            return {"up": "max", "down": "min"}.get(getattr(metric, "_direction", None) or "")
    return None


def _flatten(metrics: Any) -> Iterator[Any]:
    for metric in metrics:
        yield metric
        # Compiled metrics are in a wrapper that is a metric itself.
        yield from _flatten(getattr(metric, "metrics", []))
