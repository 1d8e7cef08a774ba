"""What the command line asks for."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """What to measure.

    Attributes:
        models: Their names.
        variants: Ways to save, by name.
        rounds: Trainings of each.
        epochs: Epochs of each training, with a save after each.
        cnn_steps: Steps an epoch of the CNN.
        dense_steps: Steps an epoch of the dense model.
        cifar10_epoch: Whether to train the CNN for an epoch as long as CIFAR-10's.
        store: `"sqlite"` or `"http"`.
        seed: Of the order within each round, and of the data.
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
