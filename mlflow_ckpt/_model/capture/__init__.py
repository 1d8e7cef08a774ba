"""A live model to host copies: the snapshot that is taken on the training thread."""
