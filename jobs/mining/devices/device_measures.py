"""Measures of maps where the maps are: `cam.measures` in torch, for all maps of a batch at once, on any device.

Legend: K kinds of maps, B maps of each, h x w patches, M = h * w.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cam.measures import AREAS, stripe_weights
from cam.placement import GridPlacement


class DeviceMeasures:
    """Measures maps of one grid on one device, in float64 as numpy does. What does not change is copied there once.

    `placement` says where the patches lie on the image, by default in equal cells. The device must have float64.
    Raises CamError for a placement of another grid.
    """

    def __init__(
        self, grid: tuple[int, int], placement: GridPlacement | None = None, device: torch.device | str = "cpu"
    ) -> None:
        placement = GridPlacement.of_maps(grid, placement)
        patches = grid[0] * grid[1]

        def there(values: object) -> Tensor:
            return torch.as_tensor(values, dtype=torch.float64).to(device)

        self._columns, self._rows = there(placement.columns.centres), there(placement.rows.centres)
        self._stripes = there(stripe_weights(placement.rows))
        self._up_to = there(torch.ones(patches, patches).triu())  # a running sum that is the same every time it is run

    @torch.no_grad()
    def __call__(self, maps: Tensor) -> Tensor:
        """(K, B, h, w) float32 -> (K, len(MEASURES), B) float32, as `cam.measures.measure_stack`.

        Sums are taken in another order than numpy's: some results differ in the last bit.
        """
        flat = maps.detach().flatten(2)  # (K, B, M)
        positive = flat.clamp_min(0)
        mass = positive.sum(dim=2, dtype=torch.float64)
        share = positive / mass.unsqueeze(2)  # zero by zero is NaN: a map without mass has no shares
        on_grid = share.view(maps.shape)
        rows, columns = on_grid.sum(dim=3), on_grid.sum(dim=2)
        found = [
            flat.amin(dim=2),
            flat.amax(dim=2),
            mass,
            0.0 - torch.xlogy(share, share).sum(dim=2),  # a single peak has entropy 0, not -0
            columns @ self._columns,
            rows @ self._rows,
            *self._areas(positive, mass),
            *(rows @ self._stripes).unbind(dim=2),
        ]
        return torch.stack([values.float() for values in found], dim=1)

    def _areas(self, positive: Tensor, mass: Tensor) -> list[Tensor]:
        """(K, B) for each part: the smallest share of the patches that holds this part of the mass."""
        falling = positive.sort(dim=2, descending=True).values / mass.unsqueeze(2)
        unknown = falling.isnan()
        held = falling.nan_to_num(0.0, 0.0, 0.0) @ self._up_to
        patches = positive.shape[2]
        counts = [((held < part - 1e-9) & ~unknown).sum(dim=2) + 1.0 for part in AREAS]
        return [torch.where(unknown[..., 0], torch.nan, count.double() / patches) for count in counts]
