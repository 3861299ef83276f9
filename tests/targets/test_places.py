import torch

from pipeline.targets.drawing.places import find_places
from pipeline.targets.draws import _search

POSITIONS, CLASSES, DRAWS = 40, 700, 50


def draw(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Widths of which some are nothing, and numbers."""
    generator = torch.Generator().manual_seed(seed)
    widths = torch.rand(POSITIONS, CLASSES, generator=generator) ** 20
    widths[torch.rand(widths.shape, generator=generator) < 0.3] = 0.0
    numbers = torch.rand(POSITIONS, DRAWS, dtype=torch.float64, generator=generator)
    return widths, numbers


def test_blocks_of_blocks_find_what_a_cumulative_sum_finds() -> None:
    widths, numbers = draw()
    assert torch.equal(find_places(widths, numbers), _search(widths, numbers))


def test_what_has_no_width_is_never_found() -> None:
    widths, numbers = draw()
    numbers[:, 0], numbers[:, 1] = 0.0, 1 - 2**-53
    assert bool((widths.gather(1, find_places(widths, numbers)) > 0).all())


def test_one_class_is_found_whatever_the_number() -> None:
    widths = torch.zeros(3, 9)
    widths[:, 4] = 1e-30
    numbers = torch.tensor([[0.0, 0.5, 1 - 2**-53]], dtype=torch.float64).expand(3, -1)
    assert find_places(widths, numbers).flatten().tolist() == [4] * 9
