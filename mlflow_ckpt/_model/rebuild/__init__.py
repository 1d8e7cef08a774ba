"""Rebuilds models from files, and verifies their tensors by hash."""
