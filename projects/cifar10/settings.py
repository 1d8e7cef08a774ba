"""The parameters of a training, which a resumed one inherits."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from projects.cifar10 import options
from projects.cifar10.record import plain_text


@dataclass(frozen=True)
class Settings:
    """The parameters of a training.

    Attributes:
        epochs: Total number of epochs.
        batch_size: Images per batch.
        learning_rate: Learning rate of Adam.
        seed: Random seed; trainings with the same seed end with identical weights.
        dataset: `auto`, `cifar10`, `digits` or the path of an .npz file.
        forms: `full`, `split` or both.
        full_format: `keras` or `h5`.
        save_freq: `epoch`, or a number of batches.
        monitor: The metric that decides which checkpoint is best.
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
        """Return the parameters in the form in which a run logs them."""
        return {**asdict(self), "forms": ",".join(self.forms), "save_freq": str(self.save_freq)}

    def continued(self, recorded: Mapping[str, str], dataset: str | None) -> "Settings":
        """Return settings in which defaults are replaced by the values of a resumed run.

        Args:
            recorded: The resumed run's parameters.
            dataset: The data set that `auto` chose in it; None if unknown.
        """
        inherited: dict[str, Any] = {}
        for field in fields(self):
            text = recorded.get(field.name)
            at_default = getattr(self, field.name) == field.default
            if field.name != "epochs" and text is not None and at_default:
                inherited[field.name] = _READERS.get(field.name, str)(plain_text(text))
        if self.dataset == "auto" and dataset is not None:
            inherited["dataset"] = dataset
        return replace(self, **inherited)


_READERS: dict[str, Any] = {
    "batch_size": int,
    "learning_rate": float,
    "seed": int,
    "forms": options.forms,
    "save_freq": options.save_freq,
}
