"""The commands: `cmd_NAME.py` defines `command`, which is `mlflow-ckpt NAME`.

`--help` imports all of them, so they import Keras, MLflow, NumPy and rich inside functions.
"""
