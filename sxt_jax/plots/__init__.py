"""Figures for papers and reports; each function returns a matplotlib Figure."""

from sxt_jax.plots.curves import learning_curves
from sxt_jax.plots.dots import dot_panels
from sxt_jax.plots.figures import save_figure
from sxt_jax.plots.matching import cell_score_boxes
from sxt_jax.plots.measurements import predicted_against_true, scores_by_class
from sxt_jax.plots.overlays import orthogonal_slices, side_by_side
from sxt_jax.plots.review import review_sheet
from sxt_jax.plots.scene import surface_scene
from sxt_jax.plots.training_sets import training_set_curves

__all__ = [
    'cell_score_boxes',
    'dot_panels',
    'learning_curves',
    'orthogonal_slices',
    'predicted_against_true',
    'review_sheet',
    'save_figure',
    'scores_by_class',
    'side_by_side',
    'surface_scene',
    'training_set_curves',
]
