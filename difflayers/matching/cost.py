"""The matching cost of DMM-Net: cosine similarity of features and IoU of masks."""

import torch
from torch import Tensor

from difflayers._checks import check_number, check_same_device, check_tensor
from difflayers._values import in_range
from difflayers.matching.problems import DTYPES, HALVES

# Pixels of a whole batch's masks that are converted to floating point at a time, when masks come as bool.
_CHUNK = 2**22


def mask_iou(template_masks: Tensor, proposal_masks: Tensor) -> Tensor:
    r"""Intersection over union of every template with every proposal, of binary or soft masks.

    .. math:: \mathrm{IoU}(r, p) = \frac{\sum_x r_x p_x}{\sum_x r_x + \sum_x p_x - \sum_x r_x p_x}

    Args:
        template_masks: (..., n, H, W), bool, or floating point in [0, 1].
        proposal_masks: (..., m, H, W), of the same kind. Batch dimensions broadcast.

    Returns:
        (..., n, m): float32 for bool masks, else their dtype; 0 where both masks are empty. Differentiable in soft masks.
        Memory: one matrix product, nothing of size n m H W.

    Raises:
        TypeError: masks that are neither bool nor floating point, or differ in dtype.
        ValueError: shapes that do not fit, devices that differ, or soft masks that hold NaN or leave [0, 1].

    Example:
        >>> import torch
        >>> from difflayers import functional
        >>> masks = torch.tensor([[[1, 1], [0, 0]], [[0, 1], [0, 1]]], dtype=torch.bool)
        >>> functional.mask_iou(masks, masks)
        tensor([[1.0000, 0.3333],
                [0.3333, 1.0000]])
    """
    _check_masks(template_masks, proposal_masks)
    r, p = template_masks.flatten(-2), proposal_masks.flatten(-2)
    if r.dtype == torch.bool:
        step = max(1, _CHUNK // max(1, r.shape[:-1].numel() + p.shape[:-1].numel()))
        pieces = zip(r.split(step, -1), p.split(step, -1), strict=True)
        together = sum((_products(a.float(), b.float()) for a, b in pieces), start=torch.zeros((), device=r.device))
    else:
        if r.dtype in HALVES:  # sums over pixels do not fit half precision
            r, p = r.float(), p.float()
        fine = in_range("template_masks", r, 0, 1) + in_range("proposal_masks", p, 0, 1)
        together = _products(r, p) + fine
    either = r.sum(-1)[..., :, None] + p.sum(-1)[..., None, :] - together
    iou = torch.where(either > 0, together / torch.where(either > 0, either, 1), 0)
    return iou if template_masks.dtype == torch.bool else iou.to(template_masks.dtype)


def _products(r: Tensor, p: Tensor) -> Tensor:
    device = "cpu" if r.is_meta else r.device.type  # autocast knows no meta
    with torch.autocast(device, enabled=False):  # counts of pixels do not fit half precision
        return r @ p.mT


def mask_matching_cost(
    template_features: Tensor,
    template_masks: Tensor,
    proposal_features: Tensor,
    proposal_masks: Tensor,
    lam: float = 0.5,
) -> Tensor:
    r"""The cost of matching template i to proposal j by what they look like and where they are.

    .. math:: C_{ij} = (\lambda - 1) \cos(f(p_j), f(r_i)) - \lambda\, \mathrm{IoU}(p_j, r_i)

    Args:
        template_features: (..., n, d), floating point; of any length that its dtype holds.
        template_masks: (..., n, H, W), bool, or soft in [0, 1] with a floating dtype.
        proposal_features: (..., m, d), the dtype of template_features.
        proposal_masks: (..., m, H, W), of the kind of template_masks.
        lam: in [0, 1]; 0 for features alone, 1 for masks alone.

    Returns:
        (..., n, m) in [-1, 1], the dtype of the features. The cosine of a vector of zeros is 0, and so is its gradient.
        Differentiable in the features and in soft masks. float16 and bfloat16 are computed in float32.

    Raises:
        TypeError, ValueError: dtypes or shapes that do not fit; features that are NaN or infinite; lam outside [0, 1].

    References:
        Zeng et al., "DMM-Net", ICCV 2019, arXiv 1909.12471, section 3.2.

    Example:
        >>> import torch
        >>> from difflayers import functional
        >>> features, masks = torch.eye(2), torch.tensor([[[True, False]], [[False, True]]])
        >>> functional.mask_matching_cost(features, masks, features, masks, lam=0.3)
        tensor([[-1., -0.],
                [-0., -1.]])
    """
    check_lam(lam)
    for name, features, masks in (
        ("template_features", template_features, template_masks),
        ("proposal_features", proposal_features, proposal_masks),
    ):
        check_tensor(name, features, DTYPES)
        if features.dtype != template_features.dtype:
            raise TypeError(
                f"{name} must have the dtype of template_features, {template_features.dtype}; got {features.dtype}"
            )
        check_same_device(name, features, "template_features", template_features.device)
        if features.ndim < 2:
            raise ValueError(f"{name} must have shape (..., objects, d); got {tuple(features.shape)}")
        if features.shape[-1] != template_features.shape[-1]:
            raise ValueError(
                f"{name} must have shape (..., objects, d), with one d = {template_features.shape[-1]} for both; got "
                f"{tuple(features.shape)}"
            )
        if isinstance(masks, Tensor) and masks.ndim >= 3 and masks.shape[-3] != features.shape[-2]:
            raise ValueError(
                f"{name} and its masks must be of the same objects; got {features.shape[-2]} features and "
                f"{masks.shape[-3]} masks"
            )
    iou = mask_iou(template_masks, proposal_masks)
    _check_together(
        template_features=template_features.shape[:-2],
        proposal_features=proposal_features.shape[:-2],
        masks=iou.shape[:-2],
    )
    check_same_device("template_masks", template_masks, "template_features", template_features.device)
    r, p = _directions("template_features", template_features), _directions("proposal_features", proposal_features)
    return ((lam - 1) * _products(r, p) - lam * iou).to(template_features.dtype)


def _directions(name: str, features: Tensor) -> Tensor:
    """Each vector divided by its length, of which the square may be too large or too small for the dtype; 0 stays 0."""
    if features.dtype in HALVES:
        features = features.float()
    if not features.numel():
        return features
    most = torch.finfo(features.dtype).max
    largest = features.detach().abs().amax(-1, keepdim=True) + in_range(name, features, -most, most)
    if torch.onnx.is_in_onnx_export():  # which has no frexp
        features = features / torch.where(largest > 0, largest, 1)
    else:
        # Powers of two, which round nothing; the second of two, as the reciprocal of the smallest numbers overflows.
        exponent = -torch.frexp(largest).exponent
        half = exponent // 2
        two = torch.full_like(largest, 2)
        features = features * two.pow(half) * two.pow(exponent - half)
    length = features.square().sum(-1, keepdim=True)
    return features * torch.where(length > 0, torch.where(length > 0, length, 1).rsqrt(), 0)


def check_lam(lam: float) -> None:
    """The weight of the masks, in [0, 1]."""
    check_number("lam", lam)
    if lam > 1:
        raise ValueError(f"lam must be in [0, 1]; got {lam}")


def _check_masks(template_masks: Tensor, proposal_masks: Tensor) -> None:
    for name, masks in (("template_masks", template_masks), ("proposal_masks", proposal_masks)):
        check_tensor(name, masks, None)
        if masks.dtype != torch.bool and not masks.dtype.is_floating_point:
            raise TypeError(f"{name} must be bool, or floating point in [0, 1]; got {masks.dtype}")
        if masks.ndim < 3:
            raise ValueError(f"{name} must have shape (..., objects, H, W); got {tuple(masks.shape)}")
    if template_masks.dtype != proposal_masks.dtype:
        raise TypeError(
            f"proposal_masks must have the dtype of template_masks, {template_masks.dtype}; got {proposal_masks.dtype}"
        )
    if template_masks.shape[-2:] != proposal_masks.shape[-2:]:
        raise ValueError(
            f"proposal_masks must have the height and width of template_masks, {tuple(template_masks.shape[-2:])}; got "
            f"{tuple(proposal_masks.shape[-2:])}"
        )
    check_same_device("proposal_masks", proposal_masks, "template_masks", template_masks.device)
    _check_together(template_masks=template_masks.shape[:-3], proposal_masks=proposal_masks.shape[:-3])


def _check_together(**batches: torch.Size) -> None:
    """Batch dimensions must broadcast."""
    try:
        torch.broadcast_shapes(*batches.values())
    except RuntimeError:
        got = ", ".join(f"{name} {tuple(batch)}" for name, batch in batches.items())
        raise ValueError(f"batch dimensions must broadcast; got {got}") from None
