"""Options of layers that are numbers, or tensors that may be learnt."""

from torch import Tensor, nn

from difflayers._checks import holds_values


def hold(module: nn.Module, name: str, value: float | Tensor | None) -> None:
    """Make it an attribute: a Parameter is registered as one, any other tensor as a buffer; both move with the module."""
    if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
        module.register_buffer(name, value)
    else:
        setattr(module, name, value)


def shown(value: float | Tensor) -> str:
    """As `extra_repr` has it."""
    if not isinstance(value, Tensor):
        return f"{value:g}"
    kind = "Parameter" if isinstance(value, nn.Parameter) else "tensor"
    of = f"{value.item():g}" if value.numel() == 1 and holds_values(value) else f"shape {tuple(value.shape)}"
    return f"{kind}({of})"
