"""The checkpoint format: names, manifest, fingerprint, verification. No Keras, no MLflow."""
