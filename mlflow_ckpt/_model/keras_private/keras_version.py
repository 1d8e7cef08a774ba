"""The version of Keras that runs, and the error that says that Keras has changed.

- `TESTED_WITH` are the versions whose private names and texts this package is tested with. Another
  one is logged, once, and everything is tried: what is missing has the fallback that its module
  lists, or ends in a `PrivateApiError`.
"""

from __future__ import annotations

import keras

from mlflow_ckpt._shown.warn import mention_untested

TESTED_WITH = ("3.15",)


class PrivateApiError(Exception):
    """A private API of Keras is missing or has changed."""


def mention_untested_version() -> None:
    """Log, once, that the running Keras version was not tested with this package."""
    mention_untested("Keras", keras.__version__, TESTED_WITH)
