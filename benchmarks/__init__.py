"""Benchmarks of mlflow_ckpt and its alternatives; see README.md."""
