"""Exact matching as a module."""

from typing import TypedDict

from torch import Tensor, nn

from difflayers import functional
from difflayers.functional._exact import Gradient, check_exact_options
from difflayers.matching.problems import check_unmatched_cost
from difflayers.nn._options import hold, shown


class _Options(TypedDict):
    unmatched_cost: float | Tensor | None
    gradient: Gradient
    strength: float


class ExactMatching(nn.Module):
    r"""Minimum-cost bipartite matching: the exact assignment of 0 and 1, with a surrogate gradient.

    For the problem, its gradients, errors and references see `difflayers.functional.exact_matching`.

    Args:
        gradient: ``"blackbox"`` (interpolation, Vlastelica et al. 2020), ``"straight-through"`` or ``"none"``.
        strength: of the interpolation. Strength times the gradient of the loss should be about as large as the
            differences of costs.
        unmatched_cost: the cost at which a template may stay unmatched, a number, a tensor, or a Parameter, which is learnt by
            the blackbox gradient; None: every template is matched.

    Shapes:
        cost (..., n, m) to (..., n, m).

    Example:
        >>> import torch
        >>> from difflayers import ExactMatching
        >>> ExactMatching()(torch.tensor([[0.1, 0.2, 0.9], [0.1, 0.5, 0.9]]))
        tensor([[0., 1., 0.],
                [1., 0., 0.]])
    """

    def __init__(
        self, gradient: Gradient = "blackbox", strength: float = 10.0, *, unmatched_cost: float | Tensor | None = None
    ) -> None:
        super().__init__()
        check_exact_options(gradient, strength)
        check_unmatched_cost(unmatched_cost)
        self.gradient: Gradient = gradient
        self.strength = strength
        self.unmatched_cost: float | Tensor | None
        hold(self, "unmatched_cost", unmatched_cost)

    def forward(self, cost: Tensor, template_mask: Tensor | None = None, proposal_mask: Tensor | None = None) -> Tensor:
        """The assignment (..., n, m), of 0 and 1.

        Args:
            cost: (..., n, m), floating point; +inf forbids a pair.
            template_mask, proposal_mask: (..., n) and (..., m), bool or integer, nonzero where there is one.

        Raises:
            TypeError, ValueError: see `difflayers.functional.exact_matching`.
        """
        return functional.exact_matching(cost, template_mask, proposal_mask, **self._options())

    def solve(
        self,
        cost: Tensor,
        template_mask: Tensor | None = None,
        proposal_mask: Tensor | None = None,
        *,
        start: tuple[Tensor, Tensor] | None = None,
    ) -> functional.ExactSolution:
        """The assignment, and the multipliers of rows and columns that certify it: `functional.solve_exact`.

        Args:
            cost, template_mask, proposal_mask: as for `forward`.
            start: `multipliers` of a problem much like this one: see `functional.solve_exact`.

        Raises:
            TypeError, ValueError: as `forward` does.
        """
        return functional.solve_exact(cost, template_mask, proposal_mask, start=start, **self._options())

    def _options(self) -> _Options:
        return {"unmatched_cost": self.unmatched_cost, "gradient": self.gradient, "strength": self.strength}

    def extra_repr(self) -> str:
        text = f"gradient={self.gradient!r}"
        if self.gradient == "blackbox":
            text += f", strength={self.strength:g}"
        return text if self.unmatched_cost is None else f"{text}, unmatched_cost={shown(self.unmatched_cost)}"
