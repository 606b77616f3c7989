"""Everything that crosses ranks. Only this file calls collectives; without a process group each is the identity."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from fwk.engine.ranks.watchdog import LostRanks, RankWatchdog
from fwk.errors import FwkError


@dataclass
class World:
    """Who this process is. `side` is a second group, for collectives inside forward and backward passes, whose order
    relative to the gradient reduction differs from rank to rank. watch: looks on while this rank waits for others."""

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")
    side: Any = None
    watchdog: RankWatchdog | None = None
    position: str = "the start"

    @property
    def main(self) -> bool:
        return self.rank == 0

    def enter(self, place: str, waits: bool = False, update: int | None = None) -> None:
        """Says where this rank is from here on, for the others. waits: for them, which `train.timeout` bounds."""
        self.position = place
        if self.watchdog is not None:
            self.watchdog.enter(place, waits)
            if update is not None:
                self.watchdog.update = update

    def note_checkpoint(self, name: str) -> None:
        """Names the last checkpoint that is known to be whole, for whoever has to say it."""
        if self.watchdog is not None:
            self.watchdog.last_checkpoint = name

    def waiting_for(self, place: str) -> AbstractContextManager:
        """Inside, this rank waits for the others."""
        return self.watchdog.waiting_for(place) if self.watchdog is not None else nullcontext()

    @contextmanager
    def failing_together(self) -> Iterator[None]:
        """One rank's failure inside ends all ranks, each with one sentence. What torch says when another rank is lost
        becomes LostRanks; any other error is told to the others."""
        try:
            yield
        except Exception as error:
            if self.watchdog is None or isinstance(error, LostRanks):
                raise
            if not isinstance(error, FwkError) and is_lost_connection(error):
                raise self.watchdog.lost_ranks(error) from None
            if (
                not self.watchdog.report_failure(error)
                and not self.main
                and isinstance(error, FwkError)
            ):
                error.quiet = True
            raise

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over ranks; in place."""
        if self.size > 1:
            with self.waiting_for("a sum over ranks"):
                dist.all_reduce(tensor)
        return tensor

    def sum_numbers(self, numbers: Sequence[Tensor | float]) -> list[float]:
        """The sum over ranks of each number, in float64 and one reduction."""
        if self.size == 1 and self.device.type == "cpu":
            return [float(number) for number in numbers]
        return self.sum(
            torch.stack(
                [torch.as_tensor(n, dtype=torch.float64, device=self.device) for n in numbers]
            )
        ).tolist()

    def gather_rows(self, tensor: Tensor) -> Tensor:
        """[B, ...] -> the rows of all ranks, rank 0 first; B may differ from rank to rank. No gradient."""
        return all_rows(tensor, self, None) if self.size > 1 else tensor

    def gather_with_gradient(self, tensor: Tensor) -> tuple[Tensor, Tensor]:
        """The rows of all ranks [N, ...] and which of them are ours, int64 [B]; with gradient: what any rank's loss says
        about a row reaches the rank that made it."""
        mine = torch.arange(len(tensor), device=tensor.device)
        if self.size == 1:
            return tensor, mine
        sizes = torch.zeros(self.size, dtype=torch.int64, device=tensor.device)
        sizes[self.rank] = len(tensor)
        with self.waiting_for("the gathering of rows"):
            dist.all_reduce(sizes, group=self.side)
            start = int(sizes[: self.rank].sum())
        return _Gather.apply(tensor, self, start), mine + start

    def gather_objects(self, value: Any) -> list[Any]:
        """JSON-able values of all ranks, in rank order (text travels, nothing is unpickled)."""
        if self.size == 1:
            return [value]
        data = torch.frombuffer(
            bytearray(json.dumps(value).encode() or b" "), dtype=torch.uint8
        ).to(self.device)
        with self.waiting_for("an exchange between ranks"):
            sizes = self.gather_rows(torch.tensor([len(data)], device=self.device)).tolist()
            flat = self.gather_rows(data).cpu()
        return [json.loads(bytes(part.tolist())) for part in flat.split(sizes)]


def all_rows(tensor: Tensor, world: World, group: Any) -> Tensor:
    sizes = torch.zeros(world.size, dtype=torch.int64, device=tensor.device)
    sizes[world.rank] = tensor.shape[0]
    with world.waiting_for("the exchange of rows"):
        dist.all_reduce(sizes, group=group)
        counts = sizes.tolist()
        longest = max(counts)
        padded = tensor.new_zeros((longest, *tensor.shape[1:]))
        padded[: tensor.shape[0]] = tensor.detach()
        parts = [torch.empty_like(padded) for _ in range(world.size)]
        dist.all_gather(parts, padded.contiguous(), group=group)
    return torch.cat([part[:count] for part, count in zip(parts, counts)])


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensor: Tensor, world: World, start: int) -> Tensor:
        ctx.world, ctx.rows, ctx.start = world, tensor.shape[0], start
        return all_rows(tensor, world, world.side)

    @staticmethod
    def backward(ctx, grad: Tensor):
        grad = grad.contiguous().clone()
        with ctx.world.waiting_for("the gradient of gathered rows"):
            dist.all_reduce(grad, group=ctx.world.side)
        return grad[ctx.start : ctx.start + ctx.rows], None, None


def is_lost_connection(error: BaseException) -> bool:
    """Whether torch says by `error` that a collective operation ended because another rank did."""
    said = str(error)
    return (
        isinstance(error, dist.DistError)
        or isinstance(error, RuntimeError)
        and any(
            mark in said
            for mark in (
                "gloo/transport",
                "Connection closed by peer",
                "Connection reset by peer",
                "NCCL",
                "Application timeout caused pair closure",
                "Broken pipe",
            )
        )
    )


def sum_named(world: World, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Named additive tensors, summed over ranks in float64; a name that some rank lacks counts as zero there."""
    shapes: dict[str, list[int]] = {name: list(tensor.shape) for name, tensor in tensors.items()}
    for other in world.gather_objects(shapes):
        shapes.update({name: shape for name, shape in other.items() if name not in shapes})
    names = sorted(shapes)
    if not names:
        return {}
    flat = torch.cat(
        [
            tensors[name].detach().double().reshape(-1)
            if name in tensors
            else torch.zeros(shapes[name], dtype=torch.float64, device=world.device).reshape(-1)
            for name in names
        ]
    ).to(world.device)
    world.sum(flat)
    sizes = [torch.Size(shapes[name]).numel() for name in names]
    return {name: part.view(shapes[name]).cpu() for name, part in zip(names, flat.split(sizes))}


def checksum(tensors: Iterable[Tensor]) -> int:
    """63 bits of what tensors hold, to the last bit; the same on every device, and whatever order it adds in."""
    sums = [
        tensor.detach().contiguous().view(BITS[tensor.element_size()]).sum(dtype=torch.int64)
        for tensor in tensors
    ]
    whole = 0
    for own in torch.stack(sums).tolist() if sums else ():
        whole = (whole * 1_000_003 + own) & (1 << 63) - 1
    return whole


BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
