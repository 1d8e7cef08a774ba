"""`python -m mlflow_ckpt.cli`."""

from mlflow_ckpt.cli.commands import main

main(prog_name="mlflow-ckpt")
