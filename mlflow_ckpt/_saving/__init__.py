"""Save checkpoints: from Keras events through snapshots and the writer thread to the spool."""
