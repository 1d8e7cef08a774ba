"""Host copies to Keras's file formats: .keras, .weights.h5, legacy .h5."""
