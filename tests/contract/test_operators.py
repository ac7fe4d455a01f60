"""The operators as torch sees them: schemas, fake tensors, strides, and shapes on the meta device."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from contract_operators import OPERATORS, OPS
from torch import Tensor
from torch.testing import assert_close

CASES = [(4, False, torch.float32), (4, True, torch.float64), (0, True, torch.float32), (1, False, torch.float64)]
cases = pytest.mark.parametrize(("batch", "slack", "dtype"), CASES, ids=lambda value: str(value).split(".")[-1])


def operators(name: str, *case: Any) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    for operator, args in OPERATORS[name](*case):
        yield getattr(OPS, operator), args


def test_every_operator_is_in_the_table() -> None:
    registered = {
        name.split("::")[1] for name in torch._C._dispatch_get_all_op_names() if name.startswith("difflayers::")
    }
    assert {name for method in OPERATORS.values() for name, _ in method(1, False, torch.float64)} == registered


@cases
@pytest.mark.parametrize("name", OPERATORS)
def test_opcheck(name: str, batch: int, slack: bool, dtype: torch.dtype) -> None:
    for operator, args in operators(name, batch, slack, dtype):
        torch.library.opcheck(operator.default, args)


def transposed(value: Any) -> Any:
    """The same numbers in another order in memory."""
    if not isinstance(value, Tensor) or value.ndim < 2:
        return value
    return value.mT.contiguous().mT


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", OPERATORS)
def test_strides_change_nothing(name: str, dtype: torch.dtype) -> None:
    for operator, args in operators(name, 4, False, dtype):
        strided = tuple(map(transposed, args))
        torch.library.opcheck(operator.default, strided, test_utils=("test_schema", "test_faketensor"))
        exact = name != "satnet"  # whose matrix products may add in another order
        assert_close(operator(*strided), operator(*args), rtol=0 if exact else 1e-4, atol=0 if exact else 1e-4)


def shapes(result: Any) -> list[tuple[torch.Size, torch.dtype]]:
    return [(one.shape, one.dtype) for one in ([result] if isinstance(result, Tensor) else result)]


@cases
@pytest.mark.parametrize("name", OPERATORS)
def test_shapes_on_meta_are_the_real_ones(name: str, batch: int, slack: bool, dtype: torch.dtype) -> None:
    for operator, args in operators(name, batch, slack, dtype):
        meta = [arg.to("meta") if isinstance(arg, Tensor) else arg for arg in args]
        assert shapes(operator(*meta)) == shapes(operator(*args))
