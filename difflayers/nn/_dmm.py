"""DMM matching as a module."""

from typing import TypedDict

from torch import Tensor, nn

from difflayers import functional
from difflayers.functional._dmm import check_dmm_options
from difflayers.matching.problems import check_unmatched_cost
from difflayers.nn._options import hold, shown


class _Options(TypedDict):
    n_grad: int
    n_proj: int
    step_size: float
    average: bool
    unmatched_cost: float | Tensor | None


class DMMMatching(nn.Module):
    r"""Minimum-cost bipartite matching, relaxed, by unrolled projected gradient descent: the matching layer of DMM-Net.

    For the problem, its gradient, errors and references see `difflayers.functional.dmm_matching`.

    Args:
        n_grad: gradient steps.
        n_proj: rounds of Dykstra's projections after each.
        step_size: the step, in units of 1 / cost.
        average: return the mean of the iterates, as published; False: the last one.
        unmatched_cost: the cost at which a template may stay unmatched, a number, a tensor, or a Parameter, which is learnt;
            None: every template is matched.

    Shapes:
        cost (..., n, m) to (..., n, m).

    Example:
        >>> import torch
        >>> from difflayers import DMMMatching
        >>> layer = DMMMatching(unmatched_cost=0.8)
        >>> layer(torch.tensor([[0.1, 0.9, 0.5], [0.9, 0.9, 0.9]])).round()
        tensor([[1., 0., 0.],
                [0., 0., 0.]])
    """

    def __init__(
        self,
        n_grad: int = 40,
        n_proj: int = 5,
        step_size: float = 0.1,
        *,
        average: bool = True,
        unmatched_cost: float | Tensor | None = None,
    ) -> None:
        super().__init__()
        check_dmm_options(n_grad, n_proj, step_size)
        check_unmatched_cost(unmatched_cost)
        self.n_grad, self.n_proj, self.step_size = n_grad, n_proj, step_size
        self.average = average
        self.unmatched_cost: float | Tensor | None
        hold(self, "unmatched_cost", unmatched_cost)

    def forward(self, cost: Tensor, template_mask: Tensor | None = None, proposal_mask: Tensor | None = None) -> Tensor:
        """The relaxed assignment (..., n, m).

        Args:
            cost: (..., n, m), floating point; +inf forbids a pair.
            template_mask, proposal_mask: (..., n) and (..., m), bool or integer, nonzero where there is one.

        Raises:
            TypeError, ValueError: see `difflayers.functional.dmm_matching`.
        """
        return functional.dmm_matching(cost, template_mask, proposal_mask, **self._options())

    def solve(
        self, cost: Tensor, template_mask: Tensor | None = None, proposal_mask: Tensor | None = None
    ) -> functional.DMMSolution:
        """The relaxed assignment, and how near it is to the optimum of the linear program: `functional.solve_dmm`.

        Args:
            cost, template_mask, proposal_mask: as for `forward`.

        Raises:
            TypeError, ValueError: as `forward` does.
        """
        return functional.solve_dmm(cost, template_mask, proposal_mask, **self._options())

    def _options(self) -> _Options:
        return {
            "n_grad": self.n_grad,
            "n_proj": self.n_proj,
            "step_size": self.step_size,
            "average": self.average,
            "unmatched_cost": self.unmatched_cost,
        }

    def extra_repr(self) -> str:
        text = f"n_grad={self.n_grad}, n_proj={self.n_proj}, step_size={self.step_size:g}, average={self.average}"
        return text if self.unmatched_cost is None else f"{text}, unmatched_cost={shown(self.unmatched_cost)}"
