"""The state of a training apart from its model: data, callbacks, random generators."""
