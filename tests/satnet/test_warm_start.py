"""`start=`: a solve that begins at vectors of its own for each problem."""

from typing import Any

import pytest
import torch
from satnet_problems import make_problem
from torch import Tensor
from torch.func import vmap
from torch.testing import assert_close

from difflayers import SATNet, functional
from difflayers.satnet import cpu, op, oracle

DTYPES = [torch.float32, torch.float64]


def own_starts(batch: int, rows: int, k: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.nn.functional.normalize(
        torch.randn(batch, rows, k, generator=generator, dtype=torch.float64), dim=-1
    ).to(dtype)


@pytest.mark.parametrize("sizes", [(1, 1, 2, 0, 8), (4, 13, 9, 3, 7), (3, 30, 4, 2, 8)], ids=str)
def test_each_sample_starts_at_its_own_vectors_as_in_the_oracle(sizes: tuple[int, int, int, int, int]) -> None:
    batch, n, _, aux, k = sizes
    S, z, given, _ = make_problem(*sizes, share_given=0.4, truth=2)
    start = own_starts(batch, n + 1 + aux, k)
    found = cpu.mixing(S, z, given, start, 6, 0.0)
    for b, want in enumerate(oracle.forward(S, z, given, start, max_iter=6, eps=0.0)):
        assert_close(found[1][b], want.V, rtol=0, atol=1e-8)
        alone = cpu.mixing(S, z[b : b + 1], given[b : b + 1], start[b], 6, 0.0)
        assert all(torch.equal(f[b : b + 1], a) for f, a in zip(found, alone, strict=True))
    U, grad = torch.randn_like(found[1]), torch.randn_like(z)
    for b, got in enumerate(grad * given + op.input_gradient(S, U, torch.zeros_like(U), z, given, start)):
        want_z = oracle.input_gradient(S, found[1][b], U[b], z[b], given[b], start[b], grad[b])
        assert_close(got, want_z, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_problem_started_at_its_own_solution_is_solved_at_once(dtype: torch.dtype) -> None:
    S, z, given, _ = make_problem(5, 20, 15, 3, 8, truth=2, dtype=dtype)
    layer = SATNet(20, 15, 3, k=8, eps=1e-6, max_iter=400, dtype=dtype)
    layer.S.data.copy_(S)
    first = layer.solve(z, given)
    layer.eps = 1e-4
    again = layer.solve(z, given, start=first.vectors)
    assert (first.iterations > 5).all() and first.converged.all()
    assert (again.iterations == 1).all() and again.converged.all() and (again.residual < 1e-4).all()
    assert (again.objective <= first.objective * (1 + 1e-6)).all()
    assert_close(again.value, first.value, rtol=0, atol=0.02)
    shaped = layer.solve(z.reshape(5, 1, 20), given.reshape(5, 1, 20), start=first.vectors.unsqueeze(1))
    assert torch.equal(shaped.vectors.squeeze(1), again.vectors)
    assert torch.equal(layer(z, given, start=first.vectors), again.value)
    longer = layer.solve(z, given, start=3 * first.vectors)
    assert_close(longer.vectors, again.vectors)


def test_a_similar_problem_takes_fewer_sweeps_to_the_same_solution() -> None:
    S, z, given, _ = make_problem(8, 40, 41, 0, 12, truth=2, share_given=0.5, share_exact=0)
    options: dict[str, Any] = {"k": 12, "eps": 1e-9, "max_iter": 2000}
    first = functional.solve_satnet(S, z, given, **options)
    nearby = (z + 0.02 * torch.rand(8, 40, dtype=z.dtype)).clamp(0, 1)
    warm = functional.solve_satnet(S, nearby, given, start=first.vectors, **options)
    # cold, with the same directions r_i of the given values
    cold_start = torch.where(torch.nn.functional.pad(given, (1, 0))[..., None], first.vectors, own_starts(8, 41, 12))
    cold = functional.solve_satnet(S, nearby, given, start=cold_start, **options)
    assert warm.iterations.sum() < 0.8 * cold.iterations.sum()
    assert_close(warm.objective, cold.objective, rtol=1e-6, atol=1e-8)
    assert_close(warm.value, cold.value, rtol=0, atol=1e-3)


def test_the_floor_of_the_reference_is_below_what_random_starts_gain(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that it decides warm starts alone: a cold solve stops where it would without it."""
    for seed in range(5):
        p = make_problem(1, 40, 30, 5, 8, seed=seed)
        found = oracle.mixing(p.S, p.z[0], p.given[0], p.start)
        with monkeypatch.context() as patch:
            patch.setattr(oracle, "LEAST_REFERENCE", 0.0)
            assert oracle.mixing(p.S, p.z[0], p.given[0], p.start).relative_decrease == found.relative_decrease


def test_given_values_without_a_direction_in_the_start_get_a_fixed_one() -> None:
    """A row that was 0 or 1 lies on the axis; when it is given as 0.3, it needs an r_i of length 1, and nothing is drawn."""
    S, z, given, _ = make_problem(3, 6, 8, 1, 8, share_given=0.5)
    given[:, :2] = True
    first = functional.solve_satnet(S, z.index_fill(1, torch.tensor([0, 1]), 1.0), given, k=8)
    assert (first.vectors[:, 1:3, 1:] == 0).all()
    z[:, :2] = 0.3
    state = torch.get_rng_state()
    V = functional.satnet_vectors(S, z, given, start=first.vectors)
    assert torch.equal(torch.get_rng_state(), state)
    assert_close(V.norm(dim=-1), torch.ones(3, 8, dtype=V.dtype))
    assert torch.equal(V[0, 1], V[1, 1]) and abs(V[0, 1, 1:] @ V[0, 2, 1:]) < 0.8
    given_rows = torch.nn.functional.pad(given, (1, 1))
    soft = given_rows & (first.vectors[..., 1:].norm(dim=-1) > 0)
    assert_close(V[soft], first.vectors[soft])  # the others keep theirs


def test_gradients_with_a_start_of_each_samples_own() -> None:
    S, z, given, _ = make_problem(3, 5, 8, 1, 7, truth=2, share_given=0.4, share_exact=0)
    start = own_starts(3, 7, 7).requires_grad_()

    def solve(S: Tensor, z: Tensor) -> Tensor:
        out = functional.satnet(S, z, given, start=start, eps=0.0, max_iter=1000, prox_lam=0.0)
        return torch.where(given, 0, out)

    inputs = (S.requires_grad_(), z.requires_grad_())
    assert torch.autograd.gradcheck(solve, inputs, eps=1e-6, atol=1e-5, rtol=1e-4)
    solve(*inputs).sum().backward()
    assert start.grad is None


@pytest.mark.parametrize("shared", [False, True])
def test_vmap_over_starts(shared: bool) -> None:
    S, z, given, _ = make_problem(6, 5, 7, 1, 8)
    start = own_starts(6, 7, 8)

    def solve(z: Tensor, given: Tensor, start: Tensor) -> Tensor:
        return functional.satnet(S, z, given, start=start)

    each = vmap(solve, randomness="same")
    assert torch.equal(each(z, given, start), solve(z, given, start))
    blocks = vmap(solve, in_dims=(0, 0, None if shared else 0), randomness="same")
    starts = start[:3] if shared else start.reshape(2, 3, 7, 8)
    want = solve(z, given, start[:3].repeat(2, 1, 1) if shared else start)
    assert torch.equal(blocks(z.reshape(2, 3, 5), given.reshape(2, 3, 5), starts).reshape(6, 5), want)
    one_each = vmap(solve, in_dims=(0, 0, 0), randomness="same")(z.reshape(2, 3, 5), given.reshape(2, 3, 5), start[:2])
    assert torch.equal(one_each.reshape(6, 5), solve(z, given, start[:2].repeat_interleave(3, 0)))


def test_vmap_with_a_random_start_for_each() -> None:
    S, z, given, _ = make_problem(4, 5, 7, 1, 8)
    mapped = vmap(lambda z, given: functional.satnet_vectors(S, z, given, k=8), randomness="different")
    V = mapped(z[:1].expand(4, 5), given[:1].expand(4, 5))
    assert not torch.equal(V[0], V[1])


@pytest.mark.parametrize(
    ("start", "error", "words"),
    [
        ([[1.0]], TypeError, "start must be a tensor; got list"),
        (own_starts(2, 5, 8), TypeError, "start must have the dtype of S, torch.float32; got torch.float64"),
        (torch.ones(2, 5, 8, dtype=torch.int64), TypeError, "start must be float32 or float64"),
        (torch.ones(2, 5, 8, device="meta"), ValueError, "start must be on the device of S, cpu; got meta"),
        (torch.ones(5, 7), ValueError, r"start must have shape \(5, 8\), or that for each sample of the batch \(2,\)"),
        (torch.ones(4, 8), ValueError, r"start must have shape \(5, 8\).*got \(4, 8\)"),
        (torch.ones(3, 5, 8), ValueError, r"start must have shape \(5, 8\).*got \(3, 5, 8\)"),
        (torch.ones(()), ValueError, r"start must have shape \(5, 8\).*got \(\)"),
        (torch.zeros(5, 8), ValueError, r"start must be finite, with no row of zeros; got 2 rows.*first at \(0, 2\)"),
        (torch.full((2, 5, 8), torch.nan), ValueError, "start must be finite, with no row of zeros; got 10 rows"),
        (torch.full((2, 5, 8), torch.inf), ValueError, "start must be finite"),
    ],
)
def test_bad_starts(start: Any, error: type[Exception], words: str) -> None:
    layer = SATNet(3, 4, 1)
    with pytest.raises(error, match=f"^{words}"):
        layer(torch.rand(2, 3), torch.tensor([[True, False, True]] * 2), start=start)


def test_a_start_without_columns_is_refused() -> None:
    S, z, given, _ = make_problem(2, 3, 4)
    with pytest.raises(ValueError, match=r"start must have shape \(4, k\)"):
        functional.satnet(S, z, given, start=torch.ones(4, 0, dtype=S.dtype))
    assert functional.satnet_vectors(S, z, given, start=torch.ones(4, 3, dtype=S.dtype)).shape == (2, 4, 3)
