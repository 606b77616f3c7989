"""Bidirectional LSTMs over padded batches, in half precision where the device can and in float32 where it cannot.

oneDNN has LSTMs in bfloat16 and float16 on some CPUs only (bfloat16 needs AVX-512), and torch has no other way for
an LSTM without a projection. Whether a device has them is tried, because no list of processors stays complete.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

from fwk.nn.dropout import dropout
from fwk_plugins.cvt.logs import logger

DIRECTIONS = ("forward", "backward")


class BiLSTM(nn.Module):
    """Two LSTMs, [B, T, D] -> two outputs [B, T, side]: one reads towards the end, one towards the beginning."""

    def __init__(self, size: int, width: int, projection: int) -> None:
        super().__init__()
        self.forward_lstm, self.backward_lstm = (
            nn.LSTM(size, width, batch_first=True, proj_size=projection) for _ in DIRECTIONS
        )
        for lstm in (self.forward_lstm, self.backward_lstm):
            biases = lstm.get_parameter("bias_ih_l0")
            with torch.no_grad():  # forget gates begin open
                biases[width : 2 * width].fill_(1.0)

    def forward(
        self, x: Tensor, lengths: Tensor | None, rate: Tensor | float
    ) -> tuple[Tensor, Tensor]:
        """Return both outputs under dropout. lengths: int64 [B], or None without padding. rate: see `dropped`."""
        towards_beginning = run_lstm(self.backward_lstm, reverse_words(x, lengths))
        towards_beginning = reverse_words(towards_beginning, lengths)
        towards_end = run_lstm(self.forward_lstm, x)
        return dropped(towards_end, rate), dropped(towards_beginning, rate)


def reverse_words(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Return [B, T, D] with the first `lengths` [B] positions of each row in reverse order; it is its own inverse."""
    if lengths is None:
        return x.flip(1)
    position = torch.arange(x.shape[1], device=x.device)
    index = torch.where(position < lengths[:, None], lengths[:, None] - 1 - position, position)
    return x.gather(1, index[..., None].expand_as(x))  # index: [B, T]


def dropped(x: Tensor, rate: Tensor | float) -> Tensor:
    """Return x under dropout. rate: one number for all sequences, or one per sequence, [B, 1, 1]."""
    if not isinstance(rate, Tensor):
        return dropout(x, rate)
    kept = (torch.rand_like(x) >= rate).to(x.dtype)
    return x * kept / (1 - rate).clamp(min=1e-6)


def run_lstm(lstm: nn.LSTM, x: Tensor) -> Tensor:
    """Return the outputs of an LSTM, [B, T, side].

    Under autocast they are in its type, or in float32 on a device without such an LSTM.
    """
    # cuDNN computes no gradient in evaluation mode; nn.LSTM has no dropout that the mode would switch on
    lstm.training = torch.is_grad_enabled()
    device = x.device
    if torch.is_autocast_enabled(device.type):
        dtype = torch.get_autocast_dtype(device.type)
        if not has_lstm(device, dtype):
            with torch.autocast(device.type, enabled=False):
                return lstm(x.float())[0]
    return lstm(x)[0]


@cache
def has_lstm(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether the device can train an LSTM in this type under autocast; log a warning where it cannot."""
    try:
        _try_lstm(device, dtype)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:
        name = str(dtype).removeprefix("torch.")
        logger.warning(
            "torch has no %s LSTM on this %s: LSTMs run in float32, everything else in %s",
            name,
            device.type,
            name,
        )
        return False
    return True


def _try_lstm(device: torch.device, dtype: torch.dtype) -> None:
    """Run a tiny LSTM forward and backward. Raises RuntimeError where the device has no kernel for it.

    The LSTM is without a projection, as torch has slow kernels of its own for those with one. No random number is
    drawn, no cast is cached, and activation checkpointing around this call does not see the tensors that are saved.
    """
    lstm = nn.LSTM(1, 1, batch_first=True, device="meta").to_empty(device=device)
    with torch.no_grad():
        for parameter in lstm.parameters():
            parameter.zero_()
    with (
        torch.enable_grad(),
        torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor),
        torch.autocast(device.type, dtype, cache_enabled=False),
    ):
        outputs = lstm(torch.zeros(1, 1, 1, device=device))[0]
        torch.autograd.grad(outputs.float().sum(), list(lstm.parameters()))
