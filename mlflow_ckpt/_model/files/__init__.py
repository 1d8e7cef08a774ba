"""Writes host copies in Keras's file formats: .keras, .weights.h5, legacy .h5."""
