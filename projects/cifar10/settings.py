"""What a training is told: its parameters, and for one that goes on, those it had."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from projects.cifar10 import options
from projects.cifar10.record import plain_text


@dataclass(frozen=True)
class Settings:
    """The parameters of a training.

    Attributes:
        epochs: Epochs in all.
        batch_size: Images in a batch.
        learning_rate: Adam's step size.
        seed: Two trainings with the same seed end with identical weights.
        dataset: `auto`, `cifar10`, `digits` or the path of an .npz file.
        forms: `full`, `split` or both.
        full_format: `keras` or `h5`.
        save_freq: `epoch`, or a number of batches.
        monitor: The metric that tells the best checkpoint.
    """

    epochs: int = 2
    batch_size: int = 64
    learning_rate: float = 0.001
    seed: int = 0
    dataset: str = "auto"
    forms: tuple[str, ...] = ("full",)
    full_format: str = "keras"
    save_freq: int | Literal["epoch"] = "epoch"
    monitor: str = "val_loss"

    def parameters(self) -> dict[str, Any]:
        """Return them as a run logs them."""
        return {**asdict(self), "forms": ",".join(self.forms), "save_freq": str(self.save_freq)}

    def continued(self, recorded: Mapping[str, str], dataset: str | None) -> "Settings":
        """Take what was left at its default from the run that is gone on from.

        Args:
            recorded: That run's parameters.
            dataset: The data set that it really used; None if unknown.
        """
        found: dict[str, Any] = {}
        for field in fields(self):
            text = recorded.get(field.name)
            at_default = getattr(self, field.name) == field.default
            if field.name != "epochs" and text is not None and at_default:
                found[field.name] = _READERS.get(field.name, str)(plain_text(text))
        if self.dataset == "auto" and dataset is not None:
            found["dataset"] = dataset
        return replace(self, **found)


_READERS: dict[str, Any] = {
    "batch_size": int,
    "learning_rate": float,
    "seed": int,
    "forms": options.forms,
    "save_freq": options.save_freq,
}
