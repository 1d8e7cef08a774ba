"""`python -m mlflow_ckpt._cli`."""

from mlflow_ckpt._cli import main

main(prog_name="mlflow-ckpt")
