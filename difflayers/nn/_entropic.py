"""Entropic matching as a module."""

from typing import TypedDict

from torch import Tensor, nn

from difflayers import functional
from difflayers.functional._entropic import check_solver_options
from difflayers.matching.entropic.problems import check_epsilon
from difflayers.matching.problems import check_unmatched_cost
from difflayers.nn._options import hold, shown


class _Options(TypedDict):
    unmatched_cost: float | Tensor | None
    unmatched_proposal_cost: float | Tensor | None
    tolerance: float
    max_iter: int
    require_convergence: bool


class EntropicMatching(nn.Module):
    r"""Minimum-cost bipartite matching with an entropic term, solved to a tolerance and differentiated implicitly.

    For the problem, its gradient, errors and references see `difflayers.functional.entropic_matching`.

    Args:
        epsilon: the weight of the entropic term, in units of the cost. It and the two costs may be an ``nn.Parameter`` or
            another tensor: a parameter is learned with the module, and in its ``state_dict``.
        unmatched_cost: the cost at which a template may stay unmatched; None: every template is matched.
        unmatched_proposal_cost: the cost at which a proposal stays unmatched; None: that costs nothing and has no entropy. With
            both, the layer is SuperGlue's optimal matching.
        tolerance: the largest violation of a constraint that counts as converged.
        max_iter: about the largest number of passes over the cost.
        require_convergence: raise a RuntimeError where the tolerance is not reached.

    Shapes:
        cost (..., n, m) to (..., n, m).

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from difflayers import EntropicMatching
        >>> layer = EntropicMatching(1.0, unmatched_cost=nn.Parameter(torch.tensor(-1.0)), unmatched_proposal_cost=-1.0)
        >>> scores = torch.tensor([[9.0, 0.0, 0.0], [0.0, 0.0, -2.0]])
        >>> layer(-scores).round(decimals=2)
        tensor([[0.9700, 0.0000, 0.0100],
                [0.0100, 0.1900, 0.0300]], grad_fn=<RoundBackward1>)
    """

    epsilon: float | Tensor
    unmatched_cost: float | Tensor | None
    unmatched_proposal_cost: float | Tensor | None

    def __init__(
        self,
        epsilon: float | Tensor = 0.05,
        *,
        unmatched_cost: float | Tensor | None = None,
        unmatched_proposal_cost: float | Tensor | None = None,
        tolerance: float = 1e-9,
        max_iter: int = 1000,
        require_convergence: bool = False,
    ) -> None:
        super().__init__()
        check_epsilon(epsilon)
        check_unmatched_cost(unmatched_cost)
        check_unmatched_cost(unmatched_proposal_cost, "unmatched_proposal_cost")
        check_solver_options(tolerance, max_iter)
        hold(self, "epsilon", epsilon)
        hold(self, "unmatched_cost", unmatched_cost)
        hold(self, "unmatched_proposal_cost", unmatched_proposal_cost)
        self.tolerance, self.max_iter, self.require_convergence = tolerance, max_iter, require_convergence

    def forward(self, cost: Tensor, template_mask: Tensor | None = None, proposal_mask: Tensor | None = None) -> Tensor:
        """The assignment (..., n, m).

        Args:
            cost: (..., n, m), floating point; +inf forbids a pair.
            template_mask, proposal_mask: (..., n) and (..., m), bool or integer, nonzero where there is one.

        Raises:
            TypeError, ValueError, RuntimeError: see `difflayers.functional.entropic_matching`.
        """
        return functional.entropic_matching(cost, self.epsilon, template_mask, proposal_mask, **self._options())

    def solve(
        self,
        cost: Tensor,
        template_mask: Tensor | None = None,
        proposal_mask: Tensor | None = None,
        *,
        start: tuple[Tensor, Tensor] | None = None,
    ) -> functional.EntropicSolution:
        """The assignment, how the solver ended, and the multipliers of rows and columns: `functional.solve_entropic`.

        Args:
            cost, template_mask, proposal_mask: as for `forward`.
            start: `multipliers` of a problem much like this one: see `functional.solve_entropic`.

        Raises:
            TypeError, ValueError, RuntimeError: as `forward` does.
        """
        return functional.solve_entropic(
            cost, self.epsilon, template_mask, proposal_mask, start=start, **self._options()
        )

    def _options(self) -> _Options:
        return {
            "unmatched_cost": self.unmatched_cost,
            "unmatched_proposal_cost": self.unmatched_proposal_cost,
            "tolerance": self.tolerance,
            "max_iter": self.max_iter,
            "require_convergence": self.require_convergence,
        }

    def extra_repr(self) -> str:
        names = ("epsilon", "unmatched_cost", "unmatched_proposal_cost")
        values = {name: getattr(self, name) for name in names}
        return ", ".join(f"{name}={shown(value)}" for name, value in values.items() if value is not None)
