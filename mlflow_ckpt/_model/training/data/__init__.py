"""The data of `fit`: saved with a checkpoint, and continued from there."""
