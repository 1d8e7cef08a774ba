"""PyTorch's data loaders, and whatever else is read anew in each epoch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlflow_ckpt._model.keras_private import data_adapters
from mlflow_ckpt._model.keras_private.epoch_iterator import Iteration
from mlflow_ckpt._model.training.data.object_state import (
    ObjectState,
    decode,
    encode,
    generator_state,
    set_generator_state,
    state_functions,
)
from mlflow_ckpt._model.training.data.source import Opened, Source, State


class TorchLoader(Source):
    """PyTorch's `DataLoader`: its order is drawn from PyTorch's global generator, or from its own.

    Args:
        iteration: Keras's iterator.
    """

    def __init__(self, iteration: Iteration) -> None:
        super().__init__(iteration)
        loader = data_adapters.loader_of(iteration.adapter)
        self._parts = {
            name: ObjectState(part)
            for name in ("dataset", "sampler", "batch_sampler")
            if (part := getattr(loader, name, None)) is not None and _is_own(part)
        }
        self._generators = {
            name: generator
            for name, owner in (("loader", loader), ("sampler", getattr(loader, "sampler", None)))
            if (generator := getattr(owner, "generator", None)) is not None
        }

    def extras(self) -> State:
        """Return what the order depends on besides the global generators.

        Returns:
            `parts`, the states of the user's data set and samplers by name, and `generators`, those
            of the loader's and the sampler's own random generators.
        """
        parts = {}
        for name, part in self._parts.items():
            parts[name], unsaved = part.capture()
            if unsaved:
                self.problem = (
                    f"attributes of the DataLoader's {name} changed and cannot be saved "
                    f"({', '.join(unsaved[:3])}): give it state_dict and load_state_dict"
                )
        generators = {name: generator_state(item) for name, item in self._generators.items()}
        return {"parts": parts, "generators": generators}

    def restore_extras(self, state: Mapping[str, Any]) -> None:
        """Restore the states of those parts and generators that this loader has too."""
        for name, value in state.get("parts", {}).items():
            if name in self._parts:
                self._parts[name].restore(value)
        for name, value in state.get("generators", {}).items():
            if name in self._generators:
                set_generator_state(self._generators[name], value)


class StatefulLoader(TorchLoader):
    """A data loader with `state_dict` and `load_state_dict`, such as torchdata's.

    Args:
        iteration: Keras's iterator.
    """

    def capture(self, batch: int) -> State:
        """Return the loader's own state as well, which says where it is."""
        loader = data_adapters.loader_of(self._iteration.adapter)
        return {**super().capture(batch), "loader": encode(loader.state_dict())}

    def reopen(self, number: int, state: State, batch: int) -> Any:
        """Return the rest of a pass, from the loader's own state: no batch is read again.

        Raises:
            Exception: The loader's, if the state does not fit.
        """
        loader = data_adapters.loader_of(self._iteration.adapter)
        loader.load_state_dict(decode(state["loader"]))
        self._start = state["start"]
        iterator = iter(self._iteration.original())
        return Opened(iterator)


def is_stateful(iteration: Iteration) -> bool:
    """Whether a data loader saves its own position."""
    return state_functions(data_adapters.loader_of(iteration.adapter)) == (
        "state_dict",
        "load_state_dict",
    )


def _is_own(part: Any) -> bool:
    """Whether an object is of a class of the user's, whose state PyTorch does not know."""
    return type(part).__module__.partition(".")[0] not in ("torch", "torchdata", "builtins")
