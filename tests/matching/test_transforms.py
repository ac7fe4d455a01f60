"""What only matching asks of torch's transformations, beside the contract of all layers."""

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.testing import assert_close

from difflayers import DMMMatching, MaskMatchingCost, functional


def test_compile_of_a_network_around_it() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.cost, self.match = nn.Linear(6, 8), MaskMatchingCost(0.3), DMMMatching(unmatched_cost=0.1)

        def forward(self, x: Tensor, r: Tensor, y: Tensor, p: Tensor) -> Tensor:
            return self.match(self.cost(self.embed(x), r, self.embed(y), p))

    torch.compiler.reset()
    model = Model()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for r, p in [(torch.rand(3, 4, 5), torch.rand(5, 4, 5)), (torch.rand(3, 4, 5) < 0.5, torch.rand(5, 4, 5) < 0.5)]:
        x, y = torch.randn(3, 6), torch.randn(5, 6)
        found = []
        for network in (model, compiled):
            model.zero_grad()
            X = network(x, r, y, p)
            X.square().sum().backward()
            assert model.embed.weight.grad is not None
            found.append((X.detach(), model.embed.weight.grad.clone()))
        assert_close(found[1], found[0])


def test_vmap_over_options_that_are_tensors() -> None:
    C, unmatched, gamma = torch.rand(4, 3, 5), torch.rand(4, 3), torch.rand(4) + 0.1
    got = vmap(lambda c, u: functional.dmm_matching(c, unmatched_cost=u))(C, unmatched)
    assert torch.equal(got, functional.dmm_matching(C, unmatched_cost=unmatched))
    got = vmap(functional.quadratic_matching, in_dims=(None, 0))(C[0], gamma)
    assert_close(got, torch.stack([functional.quadratic_matching(C[0], float(g)) for g in gamma]))


def test_vmap_over_options_of_entropic_matching() -> None:
    C, epsilon, unmatched = torch.rand(4, 3, 5), 0.05 + torch.rand(4), torch.rand(4, 3)
    got = vmap(lambda c, e, u: functional.entropic_matching(c, e, unmatched_cost=u))(C, epsilon, unmatched)
    assert torch.equal(got, functional.entropic_matching(C, epsilon, unmatched_cost=unmatched))
