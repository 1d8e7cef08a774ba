"""A live Keras model to and from a checkpoint's directory. Knows no MLflow."""
