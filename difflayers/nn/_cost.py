"""Matching costs as modules."""

from torch import Tensor, nn

from difflayers import functional
from difflayers.matching.cost import check_lam


class MaskMatchingCost(nn.Module):
    r"""The matching cost of DMM-Net, from features and masks: `difflayers.functional.mask_matching_cost`.

    .. math:: C_{ij} = (\lambda - 1) \cos(f(p_j), f(r_i)) - \lambda\, \mathrm{IoU}(p_j, r_i)

    Args:
        lam: in [0, 1]; 0 for features alone, 1 for masks alone.

    Shapes:
        template_features (..., n, d), template_masks (..., n, H, W), proposal_features (..., m, d), proposal_masks
        (..., m, H, W) to (..., n, m).

    Example:
        >>> import torch
        >>> from difflayers import MaskMatchingCost
        >>> cost = MaskMatchingCost(lam=0.3)
        >>> cost(torch.randn(2, 8), torch.rand(2, 5, 5), torch.randn(4, 8), torch.rand(4, 5, 5)).shape
        torch.Size([2, 4])
    """

    def __init__(self, lam: float = 0.5) -> None:
        super().__init__()
        check_lam(lam)
        self.lam = lam

    def forward(
        self, template_features: Tensor, template_masks: Tensor, proposal_features: Tensor, proposal_masks: Tensor
    ) -> Tensor:
        """The cost (..., n, m).

        Args:
            template_features, proposal_features: (..., n, d) and (..., m, d), floating point.
            template_masks, proposal_masks: (..., n, H, W) and (..., m, H, W), bool, or soft in [0, 1].

        Raises:
            TypeError, ValueError: see `difflayers.functional.mask_matching_cost`.
        """
        return functional.mask_matching_cost(
            template_features, template_masks, proposal_features, proposal_masks, self.lam
        )

    def extra_repr(self) -> str:
        return f"lam={self.lam:g}"
