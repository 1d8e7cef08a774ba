"""What the tracking server has not confirmed yet: on this machine's disk, and on its way."""
