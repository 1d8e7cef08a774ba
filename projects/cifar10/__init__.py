"""A small CNN on CIFAR-10, trained, evaluated and asked through MLflow."""

import os

# Read by TensorFlow when it is imported, so it stands before every other import.
# 1 hides its notices (which CPU instructions, oneDNN); warnings and errors still show.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
