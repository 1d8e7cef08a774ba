"""Checkpoints as versions of registered models."""
