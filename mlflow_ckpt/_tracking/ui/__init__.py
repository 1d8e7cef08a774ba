"""Shows checkpoints in MLflow's UI: rows of the Models table, a table, a description."""
