"""Files to a model, whose tensors are proven by hash."""
