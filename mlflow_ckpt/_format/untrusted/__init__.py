"""Reads files that others wrote: nothing is followed, run, or allocated before it is checked."""
