"""Signatures over checkpoints, in the format of sigstore's `model-signing`."""
