"""Figures of runs and models, as matplotlib figures and as files."""

from hiwl_core.errors import UserError

try:
    import matplotlib as _matplotlib  # noqa: F401
except ImportError:
    raise UserError("figures need the package matplotlib: pip install 'hiwl[figures]'") from None

from hiwl_core.figures.attention_grid import AttentionExample, draw_attention_grid, heated
from hiwl_core.figures.augmentation_steps import draw_augmentation_steps
from hiwl_core.figures.confusion_heat_map import draw_confusion_heat_map
from hiwl_core.figures.embedding_map import EmbeddingPanel, draw_embedding_map
from hiwl_core.figures.learning_curves import draw_learning_curves
from hiwl_core.figures.style import class_colors, figure_files

__all__ = [
    "AttentionExample",
    "EmbeddingPanel",
    "class_colors",
    "draw_attention_grid",
    "draw_augmentation_steps",
    "draw_confusion_heat_map",
    "draw_embedding_map",
    "draw_learning_curves",
    "figure_files",
    "heated",
]
