"""What a checkpoint is: names, manifest, fingerprint, verification. Knows neither Keras nor MLflow."""
