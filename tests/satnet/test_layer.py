"""The module and the function as their user sees them: arguments, shapes, report, errors, extreme values."""

import copy
import inspect
import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st
from satnet_problems import make_problem
from torch import Tensor, nn
from torch.testing import assert_close

import difflayers
from difflayers import SATNet, functional
from difflayers.functional._satnet import random_start
from difflayers.satnet import oracle

DTYPES = [torch.float32, torch.float64]


def seeded(layer: Any, *args: Any, **options: Any) -> Any:
    torch.manual_seed(7)
    return layer(*args, **options)


def test_arguments_are_the_reference_implementations() -> None:
    parameters = inspect.signature(SATNet).parameters
    assert list(parameters)[:7] == ["n", "m", "aux", "max_iter", "eps", "prox_lam", "weight_normalize"]
    assert [parameters[name].default for name in list(parameters)[2:7]] == [0, 40, 1e-4, 1e-2, True]
    assert all(parameters[name].kind is inspect.Parameter.KEYWORD_ONLY for name in list(parameters)[7:])
    assert list(parameters)[7:] == ["k", "input_mask", "device", "dtype"]
    layer = SATNet(4, 5, 2, 7, 1e-3, 0.5, False)
    assert (layer.n, layer.m, layer.aux, layer.max_iter, layer.eps, layer.prox_lam) == (4, 5, 2, 7, 1e-3, 0.5)
    assert list(inspect.signature(layer.forward).parameters) == ["z", "is_input", "generator", "start"]
    assert list(inspect.signature(layer.solve).parameters) == ["z", "is_input", "generator", "start"]
    assert difflayers.SATNet is SATNet and difflayers.functional is functional


def test_options_reach_the_solver() -> None:
    z, given = torch.rand(3, 6), torch.rand(3, 6) < 0.5
    layer = SATNet(6, 9, 2, 5, 1e-2, 0.5, k=11)
    assert torch.equal(
        seeded(layer, z, given),
        seeded(functional.satnet, layer.S, z, given, k=11, max_iter=5, eps=1e-2, prox_lam=0.5).detach(),
    )
    assert not torch.equal(seeded(layer, z, given), seeded(functional.satnet, layer.S, z, given, k=11))
    layer.eps = 0.0
    assert (layer.solve(z, given).iterations == 5).all()
    gradients = []
    for prox_lam in (0.5, 5.0):
        layer.prox_lam = prox_lam
        gradients.append(torch.autograd.grad(seeded(layer, z, given).sum(), layer.S)[0].norm())
    assert gradients[1] < 0.7 * gradients[0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_S_is_normal_with_the_reference_implementations_scale(dtype: torch.dtype) -> None:
    n, m, aux = 150, 90, 50
    layer = SATNet(n, m, aux, dtype=dtype)
    assert layer.S.shape == (n + 1 + aux, m) and layer.S.dtype == dtype and layer.S.requires_grad
    want = math.sqrt(0.5 / (n + 1 + aux + m))
    assert layer.S.detach().std().item() == pytest.approx(want, rel=0.02)
    assert abs(layer.S.detach().mean().item()) < 0.03 * want
    raw = SATNet(n, m, aux, weight_normalize=False)
    assert raw.S.detach().std().item() == pytest.approx(1, rel=0.02)
    before = raw.S.detach().clone()
    raw.reset_parameters(generator=torch.Generator().manual_seed(1))
    again = raw.S.detach().clone()
    assert not torch.equal(before, again)
    raw.reset_parameters(generator=torch.Generator().manual_seed(1))
    assert torch.equal(raw.S, again)


def test_default_dtype_is_torchs() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        assert SATNet(3, 4).S.dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert SATNet(3, 4).S.dtype == torch.float32


def test_state_dict_is_S_alone() -> None:
    layer = SATNet(4, 5, 2, input_mask=torch.tensor([1, 0, 1, 0]))
    assert list(layer.state_dict()) == ["S"]
    assert [name for name, _ in layer.named_parameters()] == ["S"]
    checkpoint = {"S": torch.randn(7, 5)}
    other = SATNet(4, 5, 2)
    assert not other.load_state_dict(checkpoint, strict=True).missing_keys
    assert torch.equal(other.S, checkpoint["S"])
    with pytest.raises(RuntimeError, match="size mismatch"):
        SATNet(4, 5).load_state_dict(checkpoint)


@pytest.mark.parametrize("rows", range(1, 200))
def test_default_k(rows: int) -> None:
    """The smallest multiple of 8 above sqrt(2 rows)."""
    k = functional.default_k(rows)
    assert k % 8 == 0 and k * k > 2 * rows
    assert k == 8 or (k - 8) ** 2 <= 2 * rows


def test_default_k_of_the_layer() -> None:
    assert SATNet(729, 600, 300).k == 48
    assert SATNet(3, 4).k == 8
    assert SATNet(3, 4, k=5).k == 5
    assert SATNet(30, 4, 1).k == 16  # sqrt(2 * 32) is 8: not above it


def test_repr() -> None:
    mask = torch.tensor([True, False, True])
    assert repr(SATNet(3, 4)) == "SATNet(n=3, m=4, aux=0, k=8, max_iter=40, eps=0.0001, prox_lam=0.01)"
    assert repr(SATNet(3, 4, 2, 7, 1e-3, 0.5, k=5, input_mask=mask)) == (
        "SATNet(n=3, m=4, aux=2, k=5, max_iter=7, eps=0.001, prox_lam=0.5, input_mask=2 given)"
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch", [(), (0,), (1,), (3, 0), (2, 3), (2, 1, 3)], ids=str)
def test_batch_shapes(batch: tuple[int, ...], dtype: torch.dtype) -> None:
    layer = SATNet(5, 7, 2, dtype=dtype)
    z, given = torch.rand(*batch, 5, dtype=dtype, requires_grad=True), torch.rand(*batch, 5) < 0.5
    solved = seeded(layer.solve, z, given)
    out = seeded(layer, z, given)
    assert torch.equal(solved.value, out)
    assert out.shape == (*batch, 5) and out.dtype == dtype
    flat = seeded(layer, z.reshape(-1, 5), given.reshape(-1, 5))
    assert torch.equal(out.reshape(-1, 5), flat)
    assert solved.vectors.shape == (*batch, 8, 8) and solved.vectors.dtype == dtype
    dtypes = [torch.float64, torch.int64, torch.float64, torch.bool]
    for field, dtype_wanted in zip(solved[1:5], dtypes, strict=True):
        assert field.shape == batch and field.dtype == dtype_wanted and not field.requires_grad
    out.square().sum().backward()
    assert z.grad is not None and z.grad.shape == z.shape
    assert layer.S.grad is not None and layer.S.grad.shape == layer.S.shape
    assert (layer.S.grad == 0).all() == (math.prod(batch) == 0)


def test_strides_of_the_inputs_do_not_matter() -> None:
    layer = SATNet(5, 7, 2)
    z, given = torch.rand(4, 5), torch.rand(4, 5) < 0.5
    want = seeded(layer, z, given)
    assert torch.equal(seeded(layer, z.T.contiguous().T, given.T.contiguous().T), want)
    wide = torch.stack((z, z), -1)[..., 0]
    assert torch.equal(seeded(layer, wide, given), want)
    one = seeded(layer, z[:1].expand(4, 5), given[:1].expand(4, 5))
    assert torch.equal(one, seeded(layer, z[:1], given[:1]).expand(4, 5))


def test_inputs_are_left_as_they_are() -> None:
    layer = SATNet(5, 7, 2)
    z, given = torch.rand(4, 5), torch.rand(4, 5) < 0.5
    before = [t.clone() for t in (layer.S.detach(), z, given)]
    layer(z, given).sum().backward()
    assert all(torch.equal(t, b) for t, b in zip((layer.S.detach(), z, given), before, strict=True))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int32, torch.int64])
def test_integer_masks(dtype: torch.dtype) -> None:
    layer = SATNet(5, 7)
    z, given = torch.rand(4, 5), torch.rand(4, 5) < 0.5
    want = seeded(layer, z, given)
    assert torch.equal(seeded(layer, z, given.to(dtype)), want)
    assert torch.equal(seeded(layer, z, 3 * given.to(dtype)), want)
    masked = SATNet(5, 7, input_mask=2 * given[0].to(dtype))
    assert masked.input_mask is not None and masked.input_mask.dtype == torch.bool


def test_tuple_and_input_mask_forms() -> None:
    z, given = torch.rand(4, 5), torch.rand(4, 5) < 0.5
    layer = SATNet(5, 7)
    want = seeded(layer, z, given)
    assert torch.equal(seeded(layer, (z, given)), want)
    assert torch.equal(seeded(layer, [z, given]), want)
    assert torch.equal(seeded(nn.Sequential(layer), (z, given)), want)
    masked = SATNet(5, 7, input_mask=given[0])
    masked.load_state_dict(layer.state_dict())
    shared = seeded(layer, z, given[0].expand(4, 5))
    assert torch.equal(seeded(masked, z), shared)
    assert torch.equal(seeded(nn.Sequential(masked), z.reshape(2, 2, 5)).reshape(4, 5), shared)
    assert torch.equal(seeded(masked, z, given), want), "a mask that is passed counts more"


def test_in_a_sequential_network() -> None:
    mask = torch.tensor([True, True, True, False, False])
    model = nn.Sequential(nn.Linear(3, 5), nn.Sigmoid(), SATNet(5, 7, input_mask=mask))
    out = model(torch.randn(6, 3))
    out[:, 3:].square().sum().backward()
    weight = model[0].weight.grad
    assert weight is not None and (weight[:3].abs().sum(1) > 0).all() and (weight[3:] == 0).all()
    assert model[2].S.grad.abs().sum() > 0
    double = model.double()
    assert double(torch.randn(2, 3).double()).dtype == torch.float64


def test_same_seed_same_result() -> None:
    layer = SATNet(8, 9, 2)
    z, given = torch.rand(4, 8), torch.rand(4, 8) < 0.3
    first = layer(z, given, generator=torch.Generator().manual_seed(1))
    torch.rand(3)
    second = layer(z, given, generator=torch.Generator().manual_seed(1))
    other = layer(z, given, generator=torch.Generator().manual_seed(2))
    assert torch.equal(first, second) and not torch.equal(first, other)
    torch.manual_seed(1)
    assert torch.equal(layer(z, given), first), "the global generator is the default"
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    layer(z, given, generator=torch.Generator().manual_seed(1))
    assert torch.equal(torch.rand(3), expected), "with a generator, the global one is left alone"


@pytest.mark.parametrize("dtype", DTYPES)
def test_solution_says_what_happened(dtype: torch.dtype) -> None:
    S, z, given, _ = make_problem(5, 12, 9, aux=2, k=9, dtype=dtype)
    given[0] = True
    S_all = torch.cat((S[:13], torch.zeros_like(S[13:])))  # sample 0 with nothing free but rows of zeros
    info = functional.solve_satnet(S, z, given, eps=1e-3, max_iter=100, k=9)
    assert info.converged.all() and (info.residual < 1e-3).all() and (info.iterations > 1).all()
    start = random_start(15, 9, dtype, S.device, torch.Generator().manual_seed(3))
    info = functional.solve_satnet(S, z, given, generator=torch.Generator().manual_seed(3), k=9)
    for b, want in enumerate(oracle.forward(S.double(), z.double(), given, start.double())):
        tolerance = 1e-9 if dtype == torch.float64 else 1e-4
        assert float(info.objective[b]) == pytest.approx(
            float(oracle.objective(S.double(), want.V)), rel=10 * tolerance
        )
        if dtype == torch.float64:
            assert int(info.iterations[b]) == want.sweeps
            assert float(info.residual[b]) == pytest.approx(want.relative_decrease, rel=1e-5)
    info = functional.solve_satnet(S, z, given, max_iter=1, k=9)
    assert not info.converged.any() and (info.iterations == 1).all() and (info.residual == 1).all()
    info = functional.solve_satnet(S[:13], z[:1], given[:1], k=9)
    assert info.iterations.tolist() == [0] and info.converged.all() and info.residual.tolist() == [0]
    info = functional.solve_satnet(S_all, z[:1], given[:1], k=9)
    assert info.iterations.tolist() == [1] and info.converged.all()
    assert "objective  iterations  residual  converged" in str(info)


LAYER = SATNet(3, 4)
Z = torch.tensor([[0.2, 0.8, 0.5], [0.0, 1.0, 0.3]])
MASK = torch.tensor([[True, False, True], [False, True, True]])


def spoiled(value: float) -> Tensor:
    z = Z.clone()
    z[1, 2] = value
    return z


@pytest.mark.parametrize(
    ("z", "is_input", "error", "words"),
    [
        (Z[:, :2], MASK[:, :2], ValueError, r"z must have shape \(\.\.\., 3\); got \(2, 2\)"),
        (torch.tensor(0.5), torch.tensor(True), ValueError, r"z must have shape"),
        (Z, MASK[:1], ValueError, r"is_input must have the shape of z, \(2, 3\); got \(1, 3\)"),
        (Z, MASK[0], ValueError, "is_input must have the shape of z"),
        (Z, MASK.float(), TypeError, "is_input must be a bool or integer tensor"),
        (Z, MASK.to(torch.complex64), TypeError, "is_input must be a bool or integer tensor"),
        (Z.double(), MASK, TypeError, "z must have the dtype of S, torch.float32; got torch.float64"),
        (Z.half(), MASK, TypeError, "z must have the dtype of S"),
        (Z.bfloat16(), MASK, TypeError, "z must have the dtype of S"),
        (Z.int(), MASK, TypeError, "z must have the dtype of S"),
        (Z.tolist(), MASK, TypeError, "z must be"),
        (Z.numpy(), MASK, TypeError, "z must be a tensor; got ndarray"),
        (Z, MASK.tolist(), TypeError, "is_input must be a tensor; got list"),
        (None, MASK, TypeError, "z must be a tensor; got NoneType"),
        (Z, None, ValueError, "is_input is missing"),
        ((Z,), None, TypeError, r"z must be a tensor, or one pair \(z, is_input\).*tuple of 1"),
        ((Z, MASK), MASK, TypeError, r"one pair \(z, is_input\) with no further is_input.*and is_input"),
        ((Z, MASK, Z), None, TypeError, "tuple of 3"),
        (spoiled(float("nan")), MASK, ValueError, r"z must be in \[0, 1\] everywhere; got 1 entries.*nan at \(1, 2\)"),
        (spoiled(float("inf")), MASK, ValueError, r"z must be in \[0, 1\]"),
        (spoiled(1.01), MASK, ValueError, r"z must be in \[0, 1\].*1\.0099"),
        (spoiled(-0.01), MASK, ValueError, r"z must be in \[0, 1\]"),
        (spoiled(-0.01), ~MASK, ValueError, r"z must be in \[0, 1\]"),
        (Z.to("meta"), MASK, ValueError, "z must be on the device of S, cpu; got meta"),
        (Z, MASK.to("meta"), ValueError, "is_input must be on the device of S, cpu; got meta"),
    ],
)
def test_bad_input(z: Any, is_input: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        LAYER(z, is_input)


def test_rounding_outside_the_unit_interval_is_taken_as_0_and_1() -> None:
    """A softmax may give 1 + 1e-7. It passes through as it came, and counts as 1."""
    for dtype in DTYPES:
        rounding = 4 * torch.finfo(dtype).eps
        S = torch.randn(4, 5, dtype=dtype)
        z = torch.tensor([1 + rounding, -rounding, 0.5], dtype=dtype, requires_grad=True)
        given = torch.tensor([True, True, False])
        out = seeded(functional.satnet, S, z, given)
        exact = seeded(functional.satnet, S, torch.tensor([1, 0, 0.5], dtype=dtype), given)
        assert torch.equal(out[:2], z[:2]) and torch.equal(out[2], exact[2])
        out.sum().backward()
        assert z.grad is not None and z.grad.isfinite().all()


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"n": 0}, ValueError, "n must be at least 1; got 0"),
        ({"n": 2.0}, TypeError, "n must be an int; got float"),
        ({"m": 0}, ValueError, "m must be at least 1"),
        ({"m": True}, TypeError, "m must be an int; got bool"),
        ({"aux": -1}, ValueError, "aux must be at least 0; got -1"),
        ({"k": 0}, ValueError, "k must be at least 1"),
        ({"k": 8.0}, TypeError, "k must be an int"),
        ({"k": True}, TypeError, "k must be an int; got bool"),
        ({"max_iter": 0}, ValueError, "max_iter must be at least 1"),
        ({"max_iter": False}, TypeError, "max_iter must be an int; got bool"),
        ({"eps": -1e-9}, ValueError, "eps must be finite and at least 0"),
        ({"eps": float("nan")}, ValueError, "eps must be finite"),
        ({"eps": "1e-4"}, TypeError, "eps must be a number; got str"),
        ({"eps": True}, TypeError, "eps must be a number; got bool"),
        ({"prox_lam": -1.0}, ValueError, "prox_lam must be finite and at least 0"),
        ({"prox_lam": float("inf")}, ValueError, "prox_lam must be finite"),
        ({"prox_lam": None}, TypeError, "prox_lam must be a number"),
        ({"dtype": torch.float16}, TypeError, "dtype must be float32 or float64; got torch.float16"),
        ({"dtype": torch.bfloat16}, TypeError, "dtype must be"),
        ({"dtype": torch.int32}, TypeError, "dtype must be"),
        ({"input_mask": torch.ones(4, dtype=torch.bool)}, ValueError, r"input_mask must have shape \(3,\); got \(4,\)"),
        ({"input_mask": torch.ones(1, 3, dtype=torch.bool)}, ValueError, "input_mask must have shape"),
        ({"input_mask": torch.ones(3)}, TypeError, "input_mask must be a bool or integer tensor"),
        ({"input_mask": [True, False, True]}, TypeError, "input_mask must be a tensor; got list"),
        ({"input_mask": torch.ones(3, dtype=torch.bool, device="meta")}, ValueError, "input_mask must have values"),
        ({"dtype": "float32"}, TypeError, "dtype must be float32 or float64; got str"),
        ({"device": 1.5}, TypeError, "device must be a torch.device"),
        ({"device": "nowhere"}, ValueError, "device must name a torch device; got 'nowhere'"),
        ({"max_iter": 2**63}, ValueError, "max_iter must be at most 2147483647; got 9223372036854775808"),
        ({"k": 2**40}, ValueError, "k must be at most"),
        ({"eps": 1e200}, ValueError, r"eps must be at most 1e\+150"),
    ],
)
def test_bad_arguments_of_the_module(options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=f"^{words}"):
        SATNet(**{"n": 3, "m": 4, **options})


S_GOOD = torch.randn(5, 4)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"S": S_GOOD.half()}, TypeError, "S must be float32 or float64; got torch.float16"),
        ({"S": S_GOOD.bfloat16()}, TypeError, "S must be float32 or float64"),
        ({"S": S_GOOD.numpy()}, TypeError, "S must be a tensor; got ndarray"),
        ({"S": S_GOOD[0]}, ValueError, r"S must have shape \(n \+ 1 \+ aux, m\) with m >= 1; got \(4,\)"),
        ({"S": S_GOOD[:, :0]}, ValueError, "S must have shape"),
        ({"S": S_GOOD[:0]}, ValueError, "S must have shape"),
        ({"S": S_GOOD[:3]}, ValueError, r"z must have shape \(\.\.\., n\) with 1 <= n <= 2"),
        ({"S": S_GOOD.double()}, TypeError, "z must have the dtype of S, torch.float64"),
        ({"S": S_GOOD.index_fill(1, torch.tensor([2]), float("inf"))}, ValueError, "S must be finite; got 5 entries"),
        ({"S": S_GOOD.index_fill(0, torch.tensor([4]), float("nan"))}, ValueError, "S must be finite; got 4 entries"),
        ({"S": S_GOOD.to("meta")}, ValueError, "z must be on the device of S, meta; got cpu"),
        ({"S": S_GOOD.to_sparse()}, TypeError, r"S must be a dense tensor \(torch.strided\); got torch.sparse_coo"),
        ({"z": Z.to_sparse()}, TypeError, "z must be a dense tensor"),
        ({"is_input": MASK.to_sparse()}, TypeError, "is_input must be a dense tensor"),
        ({"generator": 3}, TypeError, "generator must be a torch.Generator or None; got int"),
        ({"z": Z[:, :0], "is_input": MASK[:, :0]}, ValueError, "z must have shape"),
        ({"k": 0}, ValueError, "k must be at least 1"),
        ({"k": True}, TypeError, "k must be an int"),
        ({"max_iter": -3}, ValueError, "max_iter must be at least 1; got -3"),
        ({"max_iter": 2.5}, TypeError, "max_iter must be an int"),
        ({"eps": -1}, ValueError, "eps must be finite and at least 0"),
        ({"prox_lam": float("nan")}, ValueError, "prox_lam must be finite"),
    ],
)
def test_bad_arguments_of_the_function(options: dict[str, Any], error: type[Exception], words: str) -> None:
    arguments = {"S": S_GOOD, "z": Z, "is_input": MASK, **options}
    with pytest.raises(error, match=f"^{words}"):
        functional.satnet(**arguments)


def test_bad_values_are_refused_in_an_empty_or_all_given_batch_too() -> None:
    with pytest.raises(ValueError, match="S must be finite"):
        functional.satnet(S_GOOD * float("inf"), Z[:0], MASK[:0])
    with pytest.raises(ValueError, match="z must be in"):
        functional.satnet(S_GOOD, spoiled(2.0), torch.ones_like(MASK))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "m"), [(7, 6), (15, 3)])
def test_scale_of_S_does_not_matter(n: int, m: int, dtype: torch.dtype) -> None:
    """Nothing over- or underflows: powers of two give the same bits, others the same to rounding."""
    S, z, given, _ = make_problem(4, n, m, aux=1, k=8, dtype=dtype)
    exponents = [-100, -40, -1, 3, 40, 100] if dtype == torch.float32 else [-900, -400, -40, 40, 400, 900]

    def solve(scale: float) -> tuple[Tensor, Tensor]:
        scaled = (S * scale).requires_grad_()
        out = seeded(functional.satnet, scaled, z, given, prox_lam=0.0)
        (gradient,) = torch.autograd.grad(out.square().sum(), scaled)
        return out.detach(), gradient

    out, gradient = solve(1.0)
    for exponent in exponents:
        scaled_out, scaled_gradient = solve(2.0**exponent)
        assert torch.equal(scaled_out, out)
        assert scaled_gradient.isfinite().all()
        if abs(exponent) <= 40:
            assert_close(scaled_gradient * 2.0**exponent, gradient)
    out_30, _ = solve(1e30)
    assert_close(out_30, out, rtol=0, atol=1e-4 if dtype == torch.float32 else 1e-9)


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e20, 1e30])
def test_extreme_scales_train_in_float32(scale: float) -> None:
    """With the default prox_lam too: everything stays finite, the report included."""
    layer = SATNet(7, 6, 1)
    layer.S.data *= scale / layer.S.detach().abs().max()
    z, given = torch.rand(4, 7), torch.rand(4, 7) < 0.5
    solved = layer.solve(z, given)
    solved.value.square().sum().backward()
    assert solved.value.isfinite().all() and layer.S.grad is not None and layer.S.grad.isfinite().all()
    assert solved.objective.isfinite().all() and solved.residual.isfinite().all()


@pytest.mark.parametrize("scale", [1e19, 1e30, 1e-19])
def test_a_row_of_zeros_beside_extreme_ones(scale: float) -> None:
    """Nothing holds that row, and the others keep their gradients."""
    S, z, given, _ = make_problem(4, 7, 6, aux=1, k=8, dtype=torch.float32)
    S[3] = 0
    gradients = []
    for factor in (scale, 2.0**40):
        scaled = (S * factor).requires_grad_()
        solved = seeded(functional.solve_satnet, scaled, z, given)
        (gradient,) = torch.autograd.grad(solved.value.square().sum(), scaled)
        assert gradient.isfinite().all() and solved.objective.isfinite().all() and (solved.objective > 0).all()
        gradients.append(gradient * factor)
    if scale > 1:
        assert_close(gradients[0], gradients[1], rtol=0.02, atol=0.02 * float(gradients[1].abs().max()))


def test_input_mask_outlives_to_empty_and_loading() -> None:
    """It defines the layer, and no state dict has it."""
    mask = torch.tensor([True, False, True, True])
    with torch.device("meta"):
        layer = SATNet(4, 5, input_mask=torch.tensor([1, 0, 1, 1], device="cpu"))
    assert layer.S.is_meta
    for moved in (layer.to_empty(device="cpu"), copy.deepcopy(layer).double().to_empty(device="cpu")):
        moved.reset_parameters()
        moved.load_state_dict(SATNet(4, 5).state_dict())
        assert moved.input_mask is not None and torch.equal(moved.input_mask, mask)


@pytest.mark.parametrize("options", [{}, {"m": 3}], ids=str)
def test_given_clauses_outlive_meta_and_to_empty(options: dict[str, Any]) -> None:
    clauses = [[-1, 2], [-2, 3], [1, 4]]
    layer = SATNet.from_clauses(clauses, **options)
    assert layer.fixed is not None
    want = layer.fixed.clone()
    with torch.device("meta"):
        born = SATNet.from_clauses(clauses, **options)
        loaded = SATNet.from_state_dict(layer.state_dict())
    assert born.fixed is not None and born.fixed.is_meta and born.S.is_meta
    named = SATNet.from_clauses(clauses, device="meta", **options)
    gone = copy.deepcopy(layer).to("meta")
    for moved in (born, loaded, named, gone, copy.deepcopy(gone).double(), copy.deepcopy(layer)):
        moved = moved.to_empty(device="cpu")
        moved.reset_parameters()
        assert moved.fixed is not None and torch.equal(moved.fixed.float(), want)
    with torch.no_grad():
        layer.fixed *= 2
    layer.double()
    assert torch.equal(layer.fixed.float(), 2 * want)


@pytest.mark.parametrize("options", [{}, {"m": 3, "aux": 2}, {"learnable": True}], ids=str)
def test_a_state_dict_of_given_clauses_can_be_loaded(options: dict[str, Any]) -> None:
    layer = SATNet.from_clauses([[-1, 2], [-2, 3], [1, 4]], **options)
    other = SATNet.from_state_dict(layer.state_dict(), aux=layer.aux)
    assert repr(other) == repr(layer) and other.S.requires_grad == layer.S.requires_grad
    z, given = torch.tensor([[1.0, 0.5, 0.5, 0.0]]), torch.tensor([[True, False, False, True]])
    assert torch.equal(seeded(other, z, given), seeded(layer, z, given))
    with pytest.raises(ValueError, match=r"state must be a state dict of a SATNet.*got \['weight'\]"):
        SATNet.from_state_dict({"weight": torch.ones(3)})


shapes = st.tuples(
    st.integers(0, 4), st.integers(1, 9), st.integers(1, 7), st.integers(0, 4), st.one_of(st.none(), st.integers(1, 17))
)
share = st.floats(0, 1)


@settings(max_examples=150)
@for_all(shapes, share, share, st.sampled_from(DTYPES), st.integers(0, 2**31), st.sampled_from([0.0, 1e-4]))
def test_any_problem(
    shape: tuple[int, int, int, int, int | None],
    share_given: float,
    share_exact: float,
    dtype: torch.dtype,
    seed: int,
    eps: float,
) -> None:
    batch, n, m, aux, k = shape
    S, z, given, _ = make_problem(
        batch, n, m, aux, share_given=share_given, share_exact=share_exact, seed=seed, dtype=dtype
    )
    S.requires_grad_(), z.requires_grad_()
    info = functional.solve_satnet(S, z, given, k=k, eps=eps, prox_lam=0.01)
    out = info.value
    assert out.shape == z.shape and out.dtype == dtype
    assert ((out >= 0) & (out <= 1)).all()
    assert torch.equal(out[given], z[given])
    assert ((info.iterations >= 0) & (info.iterations <= 40)).all() and (info.objective >= 0).all()
    weights = torch.randn_like(out)
    (out * weights).sum().backward()
    assert S.grad is not None and z.grad is not None
    assert S.grad.isfinite().all() and z.grad.isfinite().all()
    assert (z.grad[~given] == 0).all()
    nothing_free = given.all(1) & (aux == 0)
    assert torch.equal(z.grad[nothing_free], weights[nothing_free])


@settings(max_examples=60)
@for_all(shapes, share, st.integers(0, 2**31))
def test_any_problem_is_solved_as_the_oracle_does(
    shape: tuple[int, int, int, int, int | None], share_given: float, seed: int
) -> None:
    batch, n, m, aux, k = shape
    S, z, given, _ = make_problem(batch, n, m, aux, share_given=share_given, seed=seed)
    k = functional.default_k(n + 1 + aux) if k is None else k
    start = random_start(n + 1 + aux, k, S.dtype, S.device, torch.Generator().manual_seed(seed))
    out = functional.satnet(S, z, given, k=k, max_iter=6, eps=0.0, generator=torch.Generator().manual_seed(seed))
    for got, want in itertools.zip_longest(out, oracle.forward(S, z, given, start, max_iter=6, eps=0.0)):
        assert_close(got, want.z, rtol=0, atol=1e-7)


def test_where_nothing_pulls_the_solver_has_converged_whatever_eps_is() -> None:
    z, given = torch.rand(3, 4), torch.rand(3, 4) < 0.5
    info = functional.solve_satnet(torch.zeros(6, 5), z, given, eps=0.0)
    assert info.converged.all() and (info.iterations <= 1).all() and (info.objective == 0).all()


@pytest.mark.parametrize("shape", [(), (3,), (2, 0), (2, 3)], ids=str)
def test_vectors_are_those_that_the_outputs_are_read_off(shape: tuple[int, ...]) -> None:
    S, z, given, _ = make_problem(6, 5, 7, 3, 8, seed=2)
    count = math.prod(shape)
    z, given = z[:count].reshape(*shape, 5), given[:count].reshape(*shape, 5)
    options = {"k": 9, "max_iter": 20, "eps": 1e-6}
    solved = functional.solve_satnet(S, z, given, generator=torch.Generator().manual_seed(1), **options)
    out = solved.value
    S.requires_grad_()
    V = functional.satnet_vectors(S, z, given, generator=torch.Generator().manual_seed(1), **options)
    assert V.shape == (*shape, 9, 9) and V.requires_grad and torch.equal(V, solved.vectors)
    V = V.detach()
    assert_close(V.norm(dim=-1), torch.ones(*shape, 9, dtype=V.dtype))
    assert_close(torch.arccos(-V[..., 1:6, 0].clamp(-1, 1)) / math.pi, out, atol=1e-6, rtol=0)
    assert_close((S.detach().T @ V).square().sum((-2, -1)), solved.objective)
    with pytest.raises(ValueError, match="k must be at least 1"):
        functional.satnet_vectors(S, z, given, k=0)


def test_z_that_is_no_tensor_is_named() -> None:
    with pytest.raises(TypeError, match="z must be a tensor; got list"):
        functional.satnet(torch.ones(4, 2), [[1.0, 0.0, 0.5]], torch.ones(1, 3, dtype=torch.bool))  # type: ignore[arg-type]
