"""The commands: `cmd_NAME.py` defines `command`, which is `mlflow-ckpt NAME`.

The help texts import all of them, so they import Keras, MLflow, NumPy and rich in functions.
"""
