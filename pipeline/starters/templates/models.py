"""Your networks. A recipe in this folder names them: factory = "models:small_cnn".

A factory returns a torch.nn.Module that takes float images in [0, 1], shape (batch, channels,
height, width), and returns logits, shape (batch, classes).
"""

from torch import nn


def small_cnn(classes: int = 10, channels: int = 3, width: int = 16) -> nn.Module:
    """A student."""
    return _cnn(classes, channels, width, depth=3)


def large_cnn(classes: int = 10, channels: int = 3, width: int = 64) -> nn.Module:
    """A teacher."""
    return _cnn(classes, channels, width, depth=4)


def _cnn(classes: int, channels: int, width: int, depth: int) -> nn.Module:
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False)]
        layers += [nn.BatchNorm2d(width), nn.ReLU()]
        channels, width = width, 2 * width
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)
    )
