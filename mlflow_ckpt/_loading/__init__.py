"""Load, resume, compare and import checkpoints."""
