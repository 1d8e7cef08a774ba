"""The models to train, on random images of CIFAR-10's shape."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from projects.cifar10.model import build_model, compile_model

IMAGE_SHAPE = (32, 32, 3)
CLASSES = 10
CIFAR10_IMAGES = 50_000

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Subject:
    """A compiled model and the data of one epoch.

    Attributes:
        name: Name on the command line.
        model: The model, which is reused so that its graph is traced once.
        images: (N, 32, 32, 3) uint8.
        labels: (N,) int64.
        batch_size: Images per step.
    """

    name: str
    model: keras.Model
    images: Images
    labels: Labels
    batch_size: int

    @property
    def steps(self) -> int:
        """Steps per epoch."""
        return -(-len(self.images) // self.batch_size)

    def fit(self, epochs: int, callbacks: list[keras.callbacks.Callback]) -> None:
        """Train without output."""
        self.model.fit(
            self.images,
            self.labels,
            batch_size=self.batch_size,
            epochs=epochs,
            callbacks=callbacks,
            shuffle=False,
            verbose=0,
        )

    def state(self) -> list[npt.NDArray[Any]]:
        """Return copies of the arrays in a full checkpoint: weights and optimizer state."""
        variables = [*self.model.weights, *self.model.optimizer.variables]
        return [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]


def build_cnn(steps: int, seed: int) -> Subject:
    """Build the CNN of the CIFAR-10 project, with 258,762 parameters."""
    keras.utils.set_random_seed(seed)
    model = build_model(IMAGE_SHAPE, CLASSES, learning_rate=0.001)
    return Subject("cnn", model, *synthesize(64 * steps, seed), batch_size=64)


def build_dense(steps: int, seed: int) -> Subject:
    """Build a dense model with 25 million parameters: 302 MB of state with Adam's moments."""
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input(IMAGE_SHAPE),
            layers.Rescaling(1 / 255),
            layers.Flatten(),
            layers.Dense(4096, activation="relu"),
            layers.Dense(2048, activation="relu"),
            layers.Dense(2048, activation="relu"),
            layers.Dense(CLASSES, activation="softmax"),
        ],
        name="dense_25m",
    )
    compile_model(model)
    return Subject("dense", model, *synthesize(128 * steps, seed), batch_size=128)


def synthesize(count: int, seed: int) -> tuple[Images, Labels]:
    """Generate `count` random images and labels of CIFAR-10's shape."""
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (count, *IMAGE_SHAPE), dtype=np.uint8)
    return images, random.integers(0, CLASSES, count)
