"""What a checkpoint is: names, manifest, fingerprint, verification. No Keras, no MLflow."""
