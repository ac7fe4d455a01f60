"""Quadratic matching as a module."""

from typing import TypedDict

from torch import Tensor, nn

from difflayers import functional
from difflayers.functional._quadratic import check_gamma, check_solver_options
from difflayers.matching.problems import check_unmatched_cost
from difflayers.nn._options import hold, shown


class _Options(TypedDict):
    unmatched_cost: float | Tensor | None
    tolerance: float
    max_iter: int
    require_convergence: bool


class QuadraticMatching(nn.Module):
    r"""Minimum-cost bipartite matching with a quadratic term, solved exactly and differentiated implicitly.

    For the problem, its gradient, errors and references see `difflayers.functional.quadratic_matching`.

    Args:
        gamma: the weight of the quadratic term, in units of the cost: a number, a tensor, or a Parameter, which is learnt and
            has to stay above 0.
        unmatched_cost: the cost at which a template may stay unmatched, a number, a tensor, or a Parameter, which is learnt;
            None: every template is matched.
        tolerance: the largest error of a row or column sum that counts as converged.
        max_iter: at most so many Newton steps.
        require_convergence: raise a RuntimeError where the tolerance is not reached.

    Shapes:
        cost (..., n, m) to (..., n, m).

    Example:
        >>> import torch
        >>> from difflayers import QuadraticMatching
        >>> QuadraticMatching(gamma=0.01)(torch.tensor([[0.1, 0.2, 0.9], [0.1, 0.5, 0.9]])).round(decimals=4)
        tensor([[0., 1., 0.],
                [1., 0., 0.]])
    """

    def __init__(
        self,
        gamma: float | Tensor = 0.05,
        *,
        unmatched_cost: float | Tensor | None = None,
        tolerance: float = 1e-9,
        max_iter: int = 500,
        require_convergence: bool = False,
    ) -> None:
        super().__init__()
        check_gamma(gamma)
        check_unmatched_cost(unmatched_cost)
        check_solver_options(tolerance, max_iter)
        self.gamma: float | Tensor
        self.unmatched_cost: float | Tensor | None
        hold(self, "gamma", gamma)
        hold(self, "unmatched_cost", unmatched_cost)
        self.tolerance, self.max_iter, self.require_convergence = tolerance, max_iter, require_convergence

    def forward(self, cost: Tensor, template_mask: Tensor | None = None, proposal_mask: Tensor | None = None) -> Tensor:
        """The assignment (..., n, m).

        Args:
            cost: (..., n, m), floating point; +inf forbids a pair.
            template_mask, proposal_mask: (..., n) and (..., m), bool or integer, nonzero where there is one.

        Raises:
            TypeError, ValueError, RuntimeError: see `difflayers.functional.quadratic_matching`.
        """
        return functional.quadratic_matching(cost, self.gamma, template_mask, proposal_mask, **self._options())

    def solve(
        self,
        cost: Tensor,
        template_mask: Tensor | None = None,
        proposal_mask: Tensor | None = None,
        *,
        start: tuple[Tensor, Tensor] | None = None,
    ) -> functional.QuadraticSolution:
        """The assignment, how the solver ended, and the multipliers of rows and columns: `functional.solve_quadratic`.

        Args:
            cost, template_mask, proposal_mask: as for `forward`.
            start: `multipliers` of a problem much like this one: see `functional.solve_quadratic`.

        Raises:
            TypeError, ValueError, RuntimeError: as `forward` does.
        """
        return functional.solve_quadratic(
            cost, self.gamma, template_mask, proposal_mask, start=start, **self._options()
        )

    def _options(self) -> _Options:
        return {
            "unmatched_cost": self.unmatched_cost,
            "tolerance": self.tolerance,
            "max_iter": self.max_iter,
            "require_convergence": self.require_convergence,
        }

    def extra_repr(self) -> str:
        text = f"gamma={shown(self.gamma)}"
        return text if self.unmatched_cost is None else f"{text}, unmatched_cost={shown(self.unmatched_cost)}"
