"""Tests of mlflow_ckpt and of the project that shows it at work."""
