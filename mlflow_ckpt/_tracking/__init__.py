"""A checkpoint's directory to and from an MLflow run. Knows no Keras."""
