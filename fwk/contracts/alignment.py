"""Which rows and positions of two views of one batch belong together. A view says so by `draws` and `alignment`.

Letters: B sequences, T positions of the first view, S positions of the second, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fwk.contracts.views import View
from fwk.errors import ConfigError


def require_same_rows(a: View, b: View, key: str) -> None:
    """Raise ConfigError at `key` unless two views have the same sequences in the same order.

    It waits for the device, so it belongs where counts are taken (`Criterion.normalizers`), which waits anyway.
    """
    if len(a) != len(b) or not torch.equal(a.draws, b.draws):
        raise ConfigError(
            key,
            f"'{a.name}' and '{b.name}' have different sequences; expected two views of the same sequences",
        )


def require_same_positions(a: View, b: View, key: str) -> None:
    """Raise ConfigError at `key` unless two views have the same sequences, each with the same tokens at its positions.

    It waits for the device, as `require_same_rows` does.
    """
    require_same_rows(a, b, key)
    if not _moved_alike(a, b):
        raise ConfigError(
            key,
            f"'{a.name}' and '{b.name}' have different positions, because a noiser moved tokens; expected two views "
            "with the same tokens at the same positions",
        )


def _moved_alike(a: View, b: View) -> bool:
    if a.content.shape != b.content.shape:
        return False
    if a.alignment is None or b.alignment is None:
        return a.alignment is b.alignment
    return torch.equal(a.alignment, b.alignment)


def shared_positions(a: View, b: View) -> tuple[Tensor | None, Tensor]:
    """Return where in `b` the token of each position of `a` stands, int64 [B, T], and whether it stands in both.

    The latter is bool [B, T], and False on padding. Where nothing moved, the former is None: the positions are equal.
    Where a token stands at several positions of `b`, the first of them is returned.
    """
    if a.alignment is None and b.alignment is None:
        return None, a.content & b.content
    original_a, original_b = _original_positions(a), _original_positions(b)  # [B, T], [B, S]
    if not original_b.shape[1]:
        return torch.zeros_like(original_a), torch.zeros_like(a.content)

    # padding, at -1, sorts first and is nobody's partner
    in_order, order = original_b.sort(dim=1, stable=True)  # [B, S]
    slot = torch.searchsorted(in_order, original_a.contiguous())  # [B, T]
    slot = slot.clamp(max=in_order.shape[1] - 1)
    shared = (in_order.gather(1, slot) == original_a) & (original_a >= 0)
    return order.gather(1, slot), shared


def _original_positions(view: View) -> Tensor:
    """Return the original position of each token of a view, int64 [B, T]; -1 on padding and inserted tokens."""
    original = view.alignment
    if original is None:
        content = view.content
        original = torch.arange(content.shape[1], device=content.device).expand(content.shape)
    return original.masked_fill(~view.content, -1)


def at_partners(tensor: Tensor, partner: Tensor | None) -> Tensor:
    """Return a tensor [B, S, D] of the second view at the positions of the first, [B, T, D].

    partner: as `shared_positions` returns it.
    """
    if partner is None:
        return tensor
    return tensor.gather(1, partner[:, :, None].expand(-1, -1, tensor.shape[2]))


def first_rows(draws: Tensor) -> Tensor:
    """Return which rows are the first of their example, bool [R]; the rows of one example follow each other.

    draws: int64 [R].
    """
    begins = torch.ones_like(draws, dtype=torch.bool)
    begins[1:] = draws[1:] != draws[:-1]
    return begins
