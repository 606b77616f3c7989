"""Whether tensors hold NaN or infinity."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def is_finite(value: Tensor) -> bool:
    """Return True where every entry is finite; entries that are not floating-point numbers always are."""
    if not value.is_floating_point():
        return True
    value = value.detach()
    if value.dtype == torch.float64:
        return bool(torch.isfinite(value).all())
    # NaN and infinity survive the sum, which cannot overflow in float64; no mask of the tensor's size is made
    return bool(torch.isfinite(value.sum(dtype=torch.float64)))


def names_not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the tensors with an entry that is not finite."""
    return [name for name, tensor in tensors.items() if not is_finite(tensor)]
