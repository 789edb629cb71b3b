"""Pictures: paths of optimizers on surfaces, loss curves, schedules, heat maps.

Drawing needs matplotlib: ``pip install "fastopt[plot]"``. Surfaces, traces and grids need NumPy alone.
"""

from __future__ import annotations

from .pictures import animate_paths as animate_paths
from .pictures import plot_heatmap as plot_heatmap
from .pictures import plot_losses as plot_losses
from .pictures import plot_paths as plot_paths
from .pictures import plot_paths_3d as plot_paths_3d
from .pictures import plot_rates as plot_rates
from .pictures import plot_schedules as plot_schedules
from .pictures import styles as styles
from .surfaces import RATES as RATES
from .surfaces import SURFACES as SURFACES
from .surfaces import Surface as Surface
from .surfaces import default_rate as default_rate
from .surfaces import rate_beta_grid as rate_beta_grid
from .surfaces import trace as trace

__all__ = [
    "RATES",
    "SURFACES",
    "Surface",
    "animate_paths",
    "default_rate",
    "plot_heatmap",
    "plot_losses",
    "plot_paths",
    "plot_paths_3d",
    "plot_rates",
    "plot_schedules",
    "rate_beta_grid",
    "styles",
    "trace",
]
