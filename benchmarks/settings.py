"""Settings from the command line."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """Settings of the benchmark.

    Attributes:
        models: Names of the models.
        variants: Names of the variants.
        rounds: Trainings per variant.
        epochs: Epochs per training, each with a save.
        cnn_steps: Steps per epoch of the CNN.
        dense_steps: Steps per epoch of the dense model.
        cifar10_epoch: Whether to train the CNN for an epoch as long as CIFAR-10's.
        store: `"sqlite"` or `"http"`.
        seed: Seed of the order within rounds, and of the data.
    """

    models: tuple[str, ...]
    variants: tuple[str, ...]
    rounds: int
    epochs: int
    cnn_steps: int
    dense_steps: int
    cifar10_epoch: bool
    store: str
    seed: int
