"""Kinds of models, trainings and data, each trained, stopped and resumed (see `program`)."""

from tests.support.kinds import (
    adversary,
    callbacks,
    compiling,
    data,
    ecosystem,
    everyday_data,
    keras_examples,
    layers_of_keras,
    layers_of_ones_own,
    losses,
    models_of_ones_own,
    optimizers,
    random_layers,
    stops,
    trainings,
)
from tests.support.kinds.kind import Kind

_MODULES = (
    optimizers, layers_of_keras, layers_of_ones_own, random_layers, models_of_ones_own, compiling,
    losses, trainings, callbacks, stops, data, adversary, ecosystem, everyday_data, keras_examples,
)  # fmt: skip

KINDS: dict[str, Kind] = {}
for _module in _MODULES:
    _twice = KINDS.keys() & _module.KINDS.keys()
    assert not _twice, _twice
    KINDS.update(_module.KINDS)
