"""What a hostile file comes in: a checkpoint of a run, a folder to import, another tool's model."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.hostile.entry_points import FILES, FOREIGN, LOADING
from tests.hostile.harness import Case
from tests.hostile.world import Target, World

WEIGHTS = "model.weights.h5"
KERAS, H5 = "data/model.keras", "data/model.h5"
# Changes a file in place.
Change = Callable[[World, Path], object]


@dataclass(frozen=True)
class Vessel:
    """A place of a file.

    Attributes:
        name: Its name.
        make: Makes the place, with a file that the function changes.
        entry_points: The entry points that read the file.
    """

    name: str
    make: Callable[[World, Change], Target]
    entry_points: tuple[str, ...]

    def case(self, what: str, change: Change, says: Iterable[str] = ()) -> Case:
        """Return the case of a changed file in this place."""
        name = f"{what} in {self.name}"
        return Case(name, lambda world: self.make(world, change), self.entry_points, tuple(says))


def in_archive(archive: Path, member: str, change: Callable[[Path], object]) -> None:
    """Change a member of a zip archive."""
    place = archive.with_name(f"{archive.name}.unpacked")
    with zipfile.ZipFile(archive) as opened:
        names = opened.namelist()
        opened.extractall(place)
    change(place / member)
    with zipfile.ZipFile(archive, "w") as written:
        for name in names:
            if (place / name).is_file():
                written.write(place / name, name)
    shutil.rmtree(place)


def rezipped(archive: Path, make: Callable[[dict[str, bytes]], bytes]) -> None:
    """Replace an archive by what a function makes of its members."""
    with zipfile.ZipFile(archive) as opened:
        members = {name: opened.read(name) for name in opened.namelist()}
    archive.write_bytes(make(members))


def whole_in_folder(
    make: Callable[[World, dict[str, bytes]], bytes],
) -> Callable[[World], Target]:
    """Return what makes a folder with an archive, to be imported."""

    def target(world: World) -> Target:
        folder = world.place()
        file = folder / "model.01.keras"
        shutil.copy(world.honest / KERAS, file)
        rezipped(file, lambda members: make(world, members))
        return Target(folder=folder)

    return target


def saved_by_others(make: Callable[[World, dict[str, bytes]], bytes]) -> Callable[[World], Target]:
    """Return what makes a run with an archive that another tool saved."""

    def target(world: World) -> Target:
        run_id = world.new_run()
        directory = world.artifacts(run_id) / "checkpoints" / "epoch_0"
        directory.mkdir(parents=True)
        file = directory / "checkpoint.keras"
        shutil.copy(world.honest / KERAS, file)
        rezipped(file, lambda members: make(world, members))
        return Target(run_id)

    return target


def _in_checkpoint(path: str) -> Callable[[World, Change], Target]:
    def make(world: World, change: Change) -> Target:
        template = world.honest_h5 if path == H5 else None
        return world.forge(lambda directory: change(world, directory / path), template=template)

    return make


def _in_keras(world: World, change: Change) -> Target:
    return world.forge(
        lambda directory: in_archive(directory / KERAS, WEIGHTS, lambda path: change(world, path))
    )


def _in_folder(name: str) -> Callable[[World, Change], Target]:
    def make(world: World, change: Change) -> Target:
        folder = world.place()
        target = Target(folder=folder)
        file = folder / name
        if name.endswith(".weights.h5"):
            shutil.copy(world.honest / WEIGHTS, file)
            target.files["architecture"] = world.honest / "architecture.json"
        else:
            source = world.honest_h5 / H5 if name.endswith(".h5") else world.honest / KERAS
            shutil.copy(source, file)
        if name.endswith(".keras"):
            in_archive(file, WEIGHTS, lambda path: change(world, path))
        else:
            change(world, file)
        return target

    return make


def _saved_by_others(ending: str) -> Callable[[World, Change], Target]:
    """Return what makes a run with a model that MLflow's own callback saved."""

    def make(world: World, change: Change) -> Target:
        run_id = world.new_run()
        directory = world.artifacts(run_id) / "checkpoints" / "epoch_0"
        directory.mkdir(parents=True)
        file = directory / f"checkpoint{ending}"
        shutil.copy(world.honest_h5 / H5 if ending == ".h5" else world.honest / KERAS, file)
        if ending == ".keras":
            in_archive(file, WEIGHTS, lambda path: change(world, path))
        else:
            change(world, file)
        return Target(run_id)

    return make


_SPLIT = ("load_split", "load_weights", "$ restore", "$ predict", "diff", "$ report")
KERAS_3 = (
    Vessel("the archive", _in_keras, (*LOADING, "diff", "$ report", "$ verify")),
    Vessel("the split form", _in_checkpoint(WEIGHTS), _SPLIT),
    Vessel("an imported .keras", _in_folder("model.01.keras"), FILES),
    Vessel("imported weights", _in_folder("model.01.weights.h5"), FILES),
    Vessel("another tool's .keras", _saved_by_others(".keras"), FOREIGN),
)
LEGACY = (
    Vessel("the .h5 form", _in_checkpoint(H5), (*LOADING, "diff", "$ report")),
    Vessel("an imported .h5", _in_folder("model.01.h5"), FILES),
    Vessel("another tool's .h5", _saved_by_others(".h5"), FOREIGN),
)
