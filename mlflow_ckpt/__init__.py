"""Keras checkpoints in MLflow: complete, proven by hash, and readable without this package.

    with mlflow.start_run():
        model.fit(x, y, epochs=5, callbacks=[mlflow_ckpt.MlflowCheckpoint()])
    model = mlflow_ckpt.load_model(run_id, "best")

Public names are listed in `__init__.pyi`, and each is imported on first use: `import mlflow_ckpt`
loads neither MLflow nor Keras and its backend.
"""

from lazy_loader import attach_stub

__version__ = "0.1.0"

__getattr__, _, _names = attach_stub(__name__, __file__)
__all__ = sorted([*_names, "__version__"])


def __dir__() -> list[str]:
    return __all__
