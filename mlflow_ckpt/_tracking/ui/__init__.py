"""What MLflow's own pages show of checkpoints: rows, tables, descriptions."""
