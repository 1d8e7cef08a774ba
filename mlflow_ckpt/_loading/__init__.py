"""From what a person names to a model: find, load, resume, compare, import."""
