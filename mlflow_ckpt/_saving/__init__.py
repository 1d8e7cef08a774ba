"""From a Keras event to the spool: snapshots, the writer thread, and what the training is told."""
