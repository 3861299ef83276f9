"""The small networks that the shipped recipes name, in plain torch.

A recipe finds this file beside itself: `factory = "models:digits_teacher"`. The same seed gives the
same weights.
"""

import sys
from pathlib import Path

import torch
from torch import Tensor, nn


def digits_teacher() -> nn.Module:
    """Build a CNN for 8x8 digits.

    Shapes: (B, 1, 8, 8) to (B, 10).
    """
    return nn.Sequential(
        *_convolution(1, 32),
        *_convolution(32, 32),
        nn.MaxPool2d(2),
        *_convolution(32, 64),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(64 * 2 * 2, 128),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Linear(128, 10),
    )


def digits_student(width: int = 8) -> nn.Module:
    """Build a CNN with a sixteenth of the teacher's weights for 8x8 digits.

    Shapes: (B, 1, 8, 8) to (B, 10).
    """
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(2 * width * 4 * 4, 10),
    )


def fashion_teacher() -> nn.Module:
    """Build a CNN for Fashion-MNIST.

    Shapes: (B, 1, 28, 28) to (B, 10).
    """
    return nn.Sequential(
        *_convolution(1, 32),
        nn.MaxPool2d(2),
        *_convolution(32, 48),
        *_convolution(48, 48),
        nn.MaxPool2d(2),
        *_convolution(48, 96),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(96 * 3 * 3, 10),
    )


def fashion_student(width: int = 8) -> nn.Module:
    """Build a CNN with about a hundredth of the teacher's work.

    Shapes: (B, 1, 28, 28) to (B, 10).
    """
    return nn.Sequential(
        nn.Conv2d(1, width, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(2 * width * 7 * 7, 10),
    )


def _convolution(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class LanguageModel(nn.Module):
    """A causal transformer: what comes next, at every token."""

    def __init__(
        self, *, vocabulary: int, width: int, layers: int, heads: int, length: int
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.places = nn.Embedding(length, width)
        block = nn.TransformerEncoderLayer(
            width,
            heads,
            4 * width,
            dropout=0.1,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.blocks = nn.TransformerEncoder(block, layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        nn.init.normal_(self.tokens.weight, std=0.02)
        nn.init.normal_(self.places.weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """Shapes: (B, L) token ids to (B, L, vocabulary) logits."""
        length = tokens.shape[1]
        places = torch.arange(length, device=tokens.device)
        later = nn.Transformer.generate_square_subsequent_mask(length, device=tokens.device)
        states = self.tokens(tokens) + self.places(places)
        return self.head(self.norm(self.blocks(states, mask=later, is_causal=True)))


def language_model(
    vocabulary: int = 257, width: int = 96, layers: int = 2, heads: int = 4, length: int = 64
) -> nn.Module:
    """Build a causal language model, of bytes unless told otherwise.

    Shapes: (B, L) to (B, L, vocabulary), L up to `length`.
    """
    return LanguageModel(
        vocabulary=vocabulary, width=width, layers=layers, heads=heads, length=length
    )


class TextClassifier(nn.Module):
    """Looks for a few words in a row, wherever they stand in a text."""

    def __init__(self, *, vocabulary: int, width: int, classes: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.dropout = nn.Dropout(0.3)
        self.phrases = nn.Conv1d(width, 2 * width, 3, padding=1)
        self.head = nn.Linear(2 * width, classes)
        nn.init.normal_(self.tokens.weight, std=0.1)

    def forward(self, rows: Tensor) -> Tensor:
        """Shapes: rows (B, 2, L) of ids and documents, -1 for padding, to (B, classes)."""
        is_text = rows[:, 1] >= 0
        is_text = is_text[:, : int(is_text.sum(1).max())]
        tokens = self.tokens(rows[:, 0, : is_text.shape[1]])
        states = self.dropout(tokens) * is_text[..., None]
        found = nn.functional.relu(self.phrases(states.mT))  # (B, 2 * width, L)
        return self.head(self.dropout((found * is_text[:, None]).amax(2)))


def text_classifier(vocabulary: int = 30522, width: int = 32, classes: int = 3) -> nn.Module:
    """Build a small CNN over tokens, of a BERT's vocabulary unless told otherwise.

    Shapes: (B, 2, L) to (B, classes).
    """
    return TextClassifier(vocabulary=vocabulary, width=width, classes=classes)


def efficientnet_lite0() -> nn.Module:
    """Build EfficientNet-Lite0, whose code `scripts/assets efficientnet-lite0` fetches.

    Shapes: (B, 3, 224, 224) to (B, 1000).
    """
    folder = str(Path(__file__).parent.parent / "assets" / "efficientnet-lite0")
    if folder not in sys.path:
        sys.path.append(folder)
    from efficientnet_lite_pytorch import EfficientNet

    model: nn.Module = EfficientNet.from_name("efficientnet-lite0")
    return model
