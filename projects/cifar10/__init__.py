"""A small CNN on CIFAR-10: training, evaluation and prediction with MLflow."""

import os

# TensorFlow reads this when it is imported, so it precedes all other imports.
# 1 hides notices (CPU instructions, oneDNN), but not warnings and errors.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
