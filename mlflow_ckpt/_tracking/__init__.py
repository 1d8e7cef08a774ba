"""Stores checkpoints in MLflow runs and reads them back. Does not import Keras."""
