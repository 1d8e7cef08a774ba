"""Measurements of mlflow_ckpt beside its peers; see README.md."""
