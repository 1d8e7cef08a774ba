"""Kinds of models, trainings and data, each trained, stopped and resumed (see `program`)."""

from tests.support.kinds import optimizers
from tests.support.kinds.kind import Kind

_MODULES = (optimizers,)

KINDS: dict[str, Kind] = {}
for _module in _MODULES:
    _twice = KINDS.keys() & _module.KINDS.keys()
    assert not _twice, _twice
    KINDS.update(_module.KINDS)
