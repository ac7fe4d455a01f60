"""The costs that the cases run on: random ones, and ones like those of masks in a video."""

import torch
from torch import Tensor

from difflayers import functional


def random_costs(B: int, n: int, m: int, *, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """(B, n, m), uniform in [0, 1)."""
    return torch.rand(B, n, m, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def mask_costs(
    B: int, n: int, m: int, *, seed: int = 0, dtype: torch.dtype = torch.float64, lam: float = 0.3
) -> Tensor:
    """(B, n, m) of `functional.mask_matching_cost`: n boxes with features, seen again a little elsewhere, among m.

    The first n proposals are the templates, moved and with noise on their features; the others are boxes of their own, half
    of which look like a template.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    def boxes(centre: Tensor, size: Tensor) -> Tensor:
        grid = (torch.arange(48) + 0.5) / 48
        inside = (grid - centre[..., None]).abs() < size[..., None] / 2  # (..., 2, 48)
        return inside[..., 0, :, None] & inside[..., 1, None, :]

    centre, size, feature = uniform(B, n, 2), 0.15 + 0.35 * uniform(B, n, 2), torch.randn(B, n, 32, generator=generator)
    moved = centre + 0.08 * torch.randn(B, n, 2, generator=generator)
    seen = feature + 0.8 * torch.randn(B, n, 32, generator=generator)
    like = torch.randint(n, (B, m - n, 1), generator=generator).expand(-1, -1, 32)
    other = torch.randn(B, m - n, 32, generator=generator)
    other = torch.where(uniform(B, m - n, 1) < 0.5, feature.gather(1, like) + other, other)
    proposals = boxes(
        torch.cat((moved, uniform(B, m - n, 2)), 1), torch.cat((size, 0.15 + 0.35 * uniform(B, m - n, 2)), 1)
    )
    features = torch.cat((seen, other), 1)
    return functional.mask_matching_cost(feature, boxes(centre, size), features, proposals, lam).to(dtype)
