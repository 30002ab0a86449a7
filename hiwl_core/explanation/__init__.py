"""Why a network decides as it does: heat maps of where it looks, and maps of how it sets galaxies apart."""

from hiwl_core.explanation.embedding import Separation, neighbor_purity, separation, silhouette, tsne
from hiwl_core.explanation.explained_model import ExplainedModel, HeatMap
from hiwl_core.explanation.features import penultimate_features
from hiwl_core.explanation.gradcam import MIN_MAP_SIDE, central_share, explained_layer, heat_maps
from hiwl_core.explanation.heat_checks import HeatChecks

__all__ = [
    "MIN_MAP_SIDE",
    "ExplainedModel",
    "HeatChecks",
    "HeatMap",
    "Separation",
    "central_share",
    "explained_layer",
    "heat_maps",
    "neighbor_purity",
    "penultimate_features",
    "separation",
    "silhouette",
    "tsne",
]
