"""How a training is stopped, and in what form it was saved."""

from __future__ import annotations

from typing import Any

import keras

from tests.support.kinds.kind import (
    JAX,
    Expected,
    Killed,
    Kind,
    Raises,
    Terminated,
    X,
    Y,
    epoch_data,
    named,
    refused,
    restores,
)
from tests.support.kinds.models import dense
from tests.support.kinds.trainings import dropout, noisy

HOOKS = {
    "on_epoch_begin": Raises("on_epoch_begin"),
    "on_train_batch_begin": Raises("on_train_batch_begin"),
    "on_train_batch_end": Raises("on_train_batch_end"),
    "on_epoch_end": Raises("on_epoch_end"),
    "on_test_begin": Raises("on_test_begin"),
    "on_test_batch_begin": Raises("on_test_batch_begin"),
    "on_test_batch_end": Raises("on_test_batch_end"),
    "on_test_end": Raises("on_test_end"),
}
# On JAX, `fit` cannot begin with a validation.
VALIDATION = {JAX: named("its validation, and what callbacks do at the end of an epoch")}


def validated_by_epoch() -> dict[str, Any]:
    return {**epoch_data(), "validation_data": (X, Y), "validation_batch_size": 6}


class Shrinks(keras.callbacks.Callback):
    """Changes the model when an epoch or a batch begins."""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        kernel = self.model.layers[0].kernel
        kernel.assign(kernel * 0.8)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.on_epoch_begin(0)


KINDS = {
    "SIGTERM inside an epoch": Kind(noisy, data=epoch_data, stop=Terminated()),
    "SIGTERM, and a callback that changes the model as a batch begins": Kind(
        noisy, data=epoch_data, callbacks=lambda: [Shrinks()], stop=Terminated()
    ),
    "SIGTERM, and a callback that changes the model as an epoch begins": Kind(
        noisy, data=epoch_data, callbacks=lambda: [Shrinks()], stop=Terminated("on_epoch_end")
    ),
    "SIGTERM in validation": Kind(
        noisy,
        data=validated_by_epoch,
        stop=Terminated("on_test_batch_end", batch=0),
        expected_on=VALIDATION,
    ),
    "killed after a save inside an epoch": Kind(
        noisy,
        data=epoch_data,
        stop=Killed(),
        checkpoints={"save_freq": 2},
        checkpoint="step:4",
    ),
    "killed between epochs": Kind(noisy, stop=Killed(), checkpoint="epoch:1"),
    "killed, with accumulated gradients": Kind(
        lambda: dense(
            dropout(), optimizer=keras.optimizers.Adam(0.02, gradient_accumulation_steps=2)
        ),
        data=epoch_data,
        stop=Raises(),
    ),
    "saved as HDF5": Kind(noisy, checkpoints={"full_format": "h5"}),
    "saved in the split form, restored": Kind(
        noisy,
        checkpoints={"forms": ("split",)},
        go_on=restores,
        expected=refused("optimizer", at_save=False),
    ),
    **{
        f"another callback raises in {hook}": Kind(
            noisy,
            data=validated_by_epoch,
            stop=stop,
            # What the callbacks behind it would have done cannot be made up for.
            expected=named("end of an epoch") if hook == "on_epoch_end" else Expected(),
            expected_on=VALIDATION if hook.startswith("on_test") else {},
        )
        for hook, stop in HOOKS.items()
    },
}
