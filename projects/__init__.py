"""MLflow Projects that show mlflow_ckpt at work."""
