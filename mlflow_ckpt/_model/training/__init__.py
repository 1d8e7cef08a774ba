"""The state of a training besides its model: data, callbacks, random generators."""
