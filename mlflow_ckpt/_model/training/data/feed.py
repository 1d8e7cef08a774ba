"""The data of a running `fit`: where the training is in them, and how to continue there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import keras

from mlflow_ckpt._format.values import Arrays, pack, unpack
from mlflow_ckpt._model.capture import introspection
from mlflow_ckpt._model.keras_private import epoch_iterator
from mlflow_ckpt._model.keras_private.epoch_iterator import Iteration
from mlflow_ckpt._model.training.data.arrays import TensorFlowArrays
from mlflow_ckpt._model.training.data.generators import PythonGenerator
from mlflow_ckpt._model.training.data.grains import GrainDataset
from mlflow_ckpt._model.training.data.loaders import StatefulLoader, TorchLoader, is_stateful
from mlflow_ckpt._model.training.data.pipelines import LateBytes, Pipeline
from mlflow_ckpt._model.training.data.py_datasets import OwnPyDataset
from mlflow_ckpt._model.training.data.source import CannotContinueError, Opened, Source, State

# Estimated bytes of a tf.data iterator's state up to which it is saved.
STATE_LIMIT = 64 * 2**20
_ATTRIBUTE = "_mlflow_ckpt_feed"


class Feed:
    """Follows the passes over the data of a `fit`, which Keras's iterator opens one by one.

    A pass is an epoch, unless `fit` got `steps_per_epoch`: then an epoch continues the pass of the
    last one, and a new one begins when the data end.

    Args:
        iteration: Keras's iterator.
        source: The data.
        kind: Kind of the data, such as `"shuffled arrays"`.

    Attributes:
        kind: The same.
        length: Number of batches in an epoch, of data whose length Keras does not know; None until
            an epoch has ended.
    """

    def __init__(self, iteration: Iteration, source: Source, kind: str) -> None:
        self.kind = kind
        self._iteration = iteration
        self._source = source
        self._persists = iteration.steps_per_epoch is not None
        self._steps = iteration.steps_per_epoch
        self._pass = 0
        self._done = 0
        self._opens = 0
        self._expects_pass = self._renewed = False
        self._skipped: int | None = None
        self._shortened = 0
        self._opened: Any = None
        self._is_endless = iteration.batches is None
        self.length: int | None = None
        self._after: Callable[[], Any] | None = None
        iteration.hook(self._open)

    @property
    def problem(self) -> str | None:
        """Phrase that says why the data cannot be the same again; None if they can."""
        return self._source.problem

    def example(self) -> Any:
        """Return a batch of zeros in the shapes of the data; None if that is not needed."""
        return self._iteration.example()

    @property
    def skipped(self) -> int:
        """Number of batches that the epoch about to begin leaves out."""
        return self._skipped or 0

    def begin_epoch(self, epoch: int) -> None:
        """Begin an epoch, before Keras opens the data."""
        self._restore_length()
        if self._iteration.left_out:
            # Only the validation of this epoch is left.
            self._opens, self._renewed, self._expects_pass = 0, False, False
            return
        skipped, self._skipped = self._skipped or 0, None
        self._opens, self._renewed = 0, False
        self._expects_pass = not (self._persists and self._iteration.is_open)
        if not self._persists:
            self._pass = epoch
        if self._expects_pass:
            self._source.begin_pass(self._pass)
        self._shorten(skipped)
        if self._persists:
            self._continued()

    def _shorten(self, skipped: int) -> None:
        """Have Keras expect an epoch without its first batches.

        Args:
            skipped: Their number.
        """
        self._shortened = skipped
        iteration = self._iteration
        if skipped and self._persists:
            iteration.steps_per_epoch = int(self._steps or 0) - skipped
        elif skipped and iteration.batches is not None:
            iteration.batches -= skipped

    def _restore_length(self) -> None:
        """Have Keras expect whole epochs again, after one that was shortened."""
        shortened, self._shortened = self._shortened, 0
        iteration = self._iteration
        if shortened and self._persists:
            iteration.steps_per_epoch = int(self._steps or 0)
        elif shortened and iteration.batches is not None:
            # If it was unknown before, Keras has counted the batches of the rest.
            iteration.batches += shortened

    def _open(self) -> Any:
        """Return the batches of a pass; Keras calls this instead of its own function."""
        self._opens += 1
        if self._expects_pass and self._opens == 1:
            return self._begin()
        if not self._persists:
            return self._source.open_unused()
        self._pass += 1
        self._renewed = True
        self._source.begin_pass(self._pass)
        return self._source.open(self._pass)

    def _begin(self) -> Any:
        """Return the batches of a pass that begins, or of the one that is continued."""
        opened, self._opened = self._opened, None
        if opened is None:
            return self._source.open(self._pass)
        self._continued()
        return opened

    def _continued(self) -> None:
        """Call, once, the function that waits for a pass to be continued."""
        after, self._after = self._after, None
        if after is not None:
            after()

    def end_epoch(self, batch: int, *, whole: bool) -> None:
        """End an epoch.

        Args:
            batch: Number of its batches, including those that were left out.
            whole: Whether the training did not stop within it.
        """
        self._done = self._position(batch) if self._persists else 0
        if whole and self._is_endless and not self._persists:
            self.length = batch
        self._source.end_epoch()

    def _position(self, batch: int) -> int:
        """Return the number of batches of the current pass that were trained on."""
        if self._persists and (self._renewed or (self._opens and not self._iteration.is_open)):
            return 0
        return self._done + (batch if self._steps is None else min(batch, self._steps))

    def capture(self, batch: int, *, finished: bool) -> tuple[State, Arrays, State]:
        """Capture the position and the state of the data.

        Args:
            batch: Number of completed batches of the current epoch; 0 between epochs.
            finished: Whether these are all batches of the epoch.

        Returns:
            The state as JSON types, its arrays, and the states of random generators that the data
            draw from ahead of the training.
        """
        position = self._position(batch)
        inside = position > 0 and (self._persists or not finished)
        source = self._source
        arrays: Arrays = {}
        try:
            inner = source.capture(position) if inside else source.capture_between()
            packed = _packed(inner, arrays)
        except Exception as error:  # noqa: BLE001 - of the user's data: training goes on
            source.problem = (
                f"the state of the data cannot be saved ({type(error).__name__}: {error})"
            )
            packed = None
        state = {
            "kind": self.kind,
            "pass": self._pass,
            "batch": position if inside else 0,
            "length": self.length,
            "persists": self._persists,
            "problem": source.problem,
            "state": packed,
        }
        return state, arrays, source.own_random(position) if inside else {}

    def resume(
        self,
        saved: Mapping[str, Any],
        arrays: Arrays,
        batch: int,
        *,
        finished: bool,
        replay: bool,
        after: Callable[[], Any],
    ) -> str | None:
        """Continue the data in the first epoch; return a phrase if they may differ.

        Args:
            saved: The state that `capture` returned.
            arrays: Its arrays.
            batch: Number of completed batches of that epoch.
            finished: Whether these are all batches of that epoch, of which validation is left.
            replay: Whether to read data again from their beginning if necessary.
            after: Called once a pass is continued within an epoch, before its next batch.

        Raises:
            CannotContinueError: If the data cannot continue; they start over.
        """
        if (saved["kind"], saved["persists"]) != (self.kind, self._persists):
            raise CannotContinueError(
                f"fit got {_words(saved['kind'], saved['persists'])} and gets "
                f"{_words(self.kind, self._persists)}"
            )
        if saved["state"] is None:
            raise CannotContinueError(str(saved["problem"]))
        state = unpack(saved["state"], arrays)
        position = saved["batch"] if self._persists or (batch and not finished) else 0
        try:
            self._reopen(saved["pass"], state, position, replay=replay)
        except CannotContinueError:
            raise
        except Exception as error:  # of the user's data, or of a library that they use
            reason = str(error).partition("\n")[0]
            raise CannotContinueError(f"{type(error).__name__}: {reason}") from error
        self._pass, self.length = saved["pass"], saved["length"]
        self._skipped = 0 if finished else batch
        self._done = max(position - batch, 0) if self._persists else 0
        if batch and not finished:
            self._after = after
        if replay and self._source.replayable:
            return None
        problem: str | None = saved["problem"]
        return problem or self._source.problem

    def _reopen(self, number: int, state: State, position: int, *, replay: bool) -> None:
        """Restore the state of the data, and open the pass that is continued within.

        Args:
            number: Number of the pass.
            state: State of the source, unpacked.
            position: Number of batches of the pass that were trained on; 0 between passes.
            replay: Whether to read data again from their beginning if necessary.

        Raises:
            CannotContinueError: If the data cannot continue.
            Exception: Whatever an object of the user's raises.
        """
        self._source.prepare(state, position, replay=replay)
        if not position:
            return
        # PyTorch's data loader draws a random number when it is opened: before `after`.
        opened = iter(self._source.reopen(number, state, position))
        if self._persists:
            self._source.begin_pass(number)
            self._iteration.keep(opened, position)
        else:
            self._opened = Opened(opened)


def _packed(state: State, arrays: Arrays) -> Any:
    """Pack a state, except for what is computed when it is written."""
    late = {name: value for name, value in state.items() if isinstance(value, LateBytes)}
    packed = pack({name: state[name] for name in state if name not in late}, "data", arrays)
    for name, value in late.items():
        arrays[f"data/{name}"] = cast(Any, value)
        packed[name] = {"$array": f"data/{name}"}
    return packed


def _words(kind: str, persists: bool) -> str:
    """Return the kind of data as a phrase."""
    return f"{kind} with steps_per_epoch" if persists else kind


def find_feed(model: keras.Model, iterator: Any, limit: int) -> Feed | None:
    """Return the feed of Keras's iterator, which all callbacks share; None if it is unknown."""
    feed: Feed | None = getattr(iterator, _ATTRIBUTE, None)
    if feed is None:
        feed = _create(model, iterator, limit)
        setattr(iterator, _ATTRIBUTE, feed)
    return feed


def _create(model: keras.Model, iterator: Any, limit: int) -> Feed | None:
    """Return a new feed of Keras's iterator.

    Args:
        model: The model that is trained.
        iterator: Keras's `EpochIterator`.
        limit: Largest estimated state of a `tf.data` iterator, in bytes, that is saved.

    Returns:
        The feed; None if the data are distributed, or of a kind that is not known.
    """
    try:
        iteration = Iteration(iterator)
        if iteration.is_distributed:
            return None
        kind = iteration.kind
        if kind == "ArrayData":
            return Feed(iteration, _arrays(model, iteration), epoch_iterator.data_of(iterator)[0])
        if kind == "TFDataset":
            return Feed(iteration, Pipeline(iteration, limit), "tf.data.Dataset")
        if kind == "PyDataset":
            return Feed(iteration, OwnPyDataset(iteration), "PyDataset")
        if kind == "GeneratorData":
            return Feed(iteration, PythonGenerator(iteration), "generator")
        if kind == "TorchDataLoader":
            # On TensorFlow, Keras reads ahead of the training, and so does the loader's own state.
            own_state = is_stateful(iteration) and keras.config.backend() != "tensorflow"
            loader = StatefulLoader if own_state else TorchLoader
            return Feed(iteration, loader(iteration), "DataLoader")
        if kind == "GrainDataset":
            return Feed(iteration, GrainDataset(iteration), "Grain")
    except Exception:  # noqa: BLE001 - another Keras or TensorFlow: the data count as unknown
        return None
    return None


def _arrays(model: keras.Model, iteration: Iteration) -> Source:
    """Return the source for arrays on the running backend."""
    if keras.config.backend() == "tensorflow":
        return TensorFlowArrays(iteration, introspection.step_of(model))
    return Source(iteration)
