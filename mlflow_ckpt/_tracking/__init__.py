"""A checkpoint's directory to and from an MLflow run. Knows no Keras.

Whatever calls MLflow raises `TrackingError` if the server or the artifact store fails, and
`TrackingUnavailableError` if it does not answer.
"""
