"""The teacher of the Fashion-MNIST claims: trained once under `out`, then found there."""

from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import SampleError
from pipeline.recipe import Recipe
from replication.recipes import shipped
from replication.report import Bar
from stages import train_student

LEAST_ACCURACY = 0.92


@dataclass(frozen=True)
class Teacher:
    """A finished run, and how good it is on the 10,000 test images."""

    path: Path
    accuracy: float

    def bar(self) -> Bar:
        """Ask that it is worth learning from."""
        return Bar("the teacher's test accuracy", self.accuracy, ">", LEAST_ACCURACY)


def train_teacher(out: Path) -> Teacher:
    """Train the shipped recipe's teacher, or find it finished.

    Raises: SampleError if Fashion-MNIST is not on this machine.
    """
    path = out / "fashion-teacher"
    recipe = shipped("fashion-teacher", {"run.path": path})
    need_fashion(recipe)
    return Teacher(path, train_student.run(recipe)["test"]["accuracy"])


def need_fashion(recipe: Recipe) -> None:
    """Refuse to begin without the images that a recipe names.

    Raises: SampleError if Fashion-MNIST is not on this machine.
    """
    for table in recipe.data.values():
        images = recipe.base / getattr(table, "images", ".")
        if not images.exists():
            raise SampleError(
                f"{images}: Fashion-MNIST is not on this machine. "
                "Install the Debian package: apt-get install dataset-fashion-mnist"
            )
