"""Notices validation data that differ from epoch to epoch, in an order that nothing saves."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import keras

from mlflow_ckpt._model.capture.code_origin import is_of_user
from mlflow_ckpt._model.capture.summaries import Summarizer
from mlflow_ckpt._model.keras_private import tf_data


class ValidationData:
    """What `fit` validates on.

    Args:
        data: The argument `validation_data`, before the first epoch.
    """

    def __init__(self, data: Any) -> None:
        self._data = data if isinstance(data, keras.utils.PyDataset) else None
        self._before = self._outline()
        self._shuffled = tf_data.is_dataset(data) and tf_data.reshuffles(data)

    def problem(self) -> str | None:
        """Return a phrase if a later validation would read other batches; None otherwise."""
        if self._shuffled:
            return (
                "the validation data are shuffled anew in each epoch, in orders that are not saved "
                "(validate on data in order, or pass shuffle(…, seed=…, "
                "reshuffle_each_iteration=False))"
            )
        now = self._outline()
        changed = sorted(name for name in now if now[name] != self._before.get(name))
        if changed:
            kind = type(self._data).__name__
            return f"the validation data ({kind}) changed ({', '.join(changed[:3])}): not saved"
        return None

    def _outline(self) -> dict[str, Hashable]:
        if self._data is None or not is_of_user(type(self._data).__module__):
            return {}
        return {name: Summarizer().of_value(value) for name, value in vars(self._data).items()}
