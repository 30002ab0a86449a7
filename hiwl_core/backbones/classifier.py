"""The one shape that all backbones take: a trunk that sees, and a linear head that decides."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["ImageClassifier"]


class ImageClassifier(nn.Module):
    """A trunk from images to features and a linear head from features to logits.

    Parameters
    ----------
    trunk : Module
        Maps (N, 3, H, W) to (N, feature_width).
    feature_width : int
    num_classes : int
    dropout : float
        Probability before the head, in training.
    """

    def __init__(self, trunk: nn.Module, feature_width: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.trunk = trunk
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(feature_width, num_classes)

    def features(self, images: Tensor) -> Tensor:
        """Penultimate features, shape (N, feature_width)."""
        return self.trunk(images)

    def forward(self, images: Tensor) -> Tensor:
        """Logits, shape (N, num_classes)."""
        return self.head(self.dropout(self.trunk(images)))

    def fitted(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights of the same network at another input size, made to fit this one.

        Most networks have the same weights at any size; those with a position embedding override this.
        """
        return weights
