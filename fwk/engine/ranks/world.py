"""All communication between ranks. Only this module calls collectives; without a process group each is the identity."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from fwk.engine.ranks.watchdog import LostRanks, RankWatchdog
from fwk.errors import FwkError

CONNECTION_ERRORS = (  # parts of the messages of torch's back-ends when another rank's process ended
    "gloo/transport",
    "Connection closed by peer",
    "Connection reset by peer",
    "NCCL",
    "Application timeout caused pair closure",
    "Broken pipe",
)
INTEGER_TYPES = {
    1: torch.uint8,
    2: torch.int16,
    4: torch.int32,
    8: torch.int64,
}  # by bytes per entry


@dataclass
class World:
    """This process's place in the job: its rank, and what it exchanges with the others."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    # a second group for collectives inside forward and backward passes: their order relative to the reduction of
    # gradients differs from rank to rank, which one group does not allow
    side: dist.ProcessGroup | None = None
    watchdog: RankWatchdog | None = None  # notified of every wait of this rank for others
    position: str = "the start"  # the part of the run that this rank is in, for messages
    last_checkpoint: str = ""  # name of the last one that this rank knows to be intact

    @property
    def main(self) -> bool:
        """Return True on rank 0, which writes files and messages."""
        return self.rank == 0

    def enter(self, place: str, waits: bool = False, update: int | None = None) -> None:
        """Note the part of the run that this rank enters, for the other ranks' messages.

        waits: this rank waits for others there, so `train.timeout` applies. update: the number of the update that
        begins.
        """
        self.position = place
        if self.watchdog is not None:
            self.watchdog.enter(place, waits)
            if update is not None:
                self.watchdog.update = update

    def note_checkpoint(self, name: str) -> None:
        """Note the last checkpoint that is known to be intact, for messages."""
        self.last_checkpoint = name
        if self.watchdog is not None:
            self.watchdog.last_checkpoint = name

    def what_is_saved(self) -> str:
        """Return a clause for messages about a failed run: whether there is a checkpoint to resume from."""
        if self.last_checkpoint:
            return "the last checkpoint is intact"
        if self.main:
            return "there is no checkpoint yet"
        return "the last checkpoint, if there is one, is intact"  # rank 0 alone writes them

    def waiting_for(self, place: str) -> AbstractContextManager[None]:
        """Return a context in which this rank waits for the others."""
        return self.watchdog.waiting_for(place) if self.watchdog is not None else nullcontext()

    @contextmanager
    def failing_together(self) -> Iterator[None]:
        """Let a failure inside end all ranks, each with one message.

        torch's error for the loss of another rank becomes LostRanks; any other error is reported to the other ranks.
        """
        try:
            yield
        except Exception as error:
            if self.watchdog is None or isinstance(error, LostRanks):
                raise
            if not isinstance(error, FwkError) and is_lost_connection(error):
                raise self.watchdog.lost_ranks(error) from None
            first_to_report = self.watchdog.report_failure(error)
            if not first_to_report and not self.main and isinstance(error, FwkError):
                error.quiet = True
            raise

    def sum(self, tensor: Tensor) -> Tensor:
        """Replace `tensor` by its sum over ranks and return it."""
        if self.size > 1:
            with self.waiting_for("a sum over ranks"):
                dist.all_reduce(tensor)
        return tensor

    def sum_numbers(self, numbers: Sequence[Tensor | float]) -> list[float]:
        """Return the sum over ranks of each number, computed in float64 with one reduction.

        Numbers of the host go to a device in one copy, and all come back in one: the host waits for each copy.
        """
        on_device = {
            index: number.double().reshape(())
            for index, number in enumerate(numbers)
            if isinstance(number, Tensor) and number.device.type != "cpu"
        }
        sums = [0.0 if index in on_device else float(n) for index, n in enumerate(numbers)]
        if self.size == 1:
            copied = torch.stack([*on_device.values()]).tolist() if on_device else []
            for index, number in zip(on_device, copied):
                sums[index] = number
            return sums
        joined = torch.tensor(sums, dtype=torch.float64, device=self.device)
        for index, value in on_device.items():
            joined[index] = value
        return self.sum(joined).tolist()

    def gather_rows(self, tensor: Tensor) -> Tensor:
        """Return the rows of all ranks, [B, ...] -> [N, ...], rank 0 first, without gradient.

        B may differ from rank to rank.
        """
        return gather_padded_rows(tensor, self, None) if self.size > 1 else tensor

    def gather_with_gradient(self, tensor: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rows of all ranks, [N, ...], and the indices of this rank's rows among them, int64 [B].

        The gradient of any rank's loss with respect to a row reaches the rank that computed the row.
        """
        rows = torch.arange(len(tensor), device=tensor.device)
        if self.size == 1:
            return tensor, rows
        sizes = torch.zeros(self.size, dtype=torch.int64, device=tensor.device)
        sizes[self.rank] = len(tensor)
        with self.waiting_for("the gathering of rows"):
            dist.all_reduce(sizes, group=self.side)
            start = int(sizes[: self.rank].sum())
        return _Gather.apply(tensor, self, start), rows + start

    def gather_objects(self, value: object) -> list[Any]:
        """Return the JSON-able values of all ranks in rank order; they travel as text, nothing is unpickled."""
        if self.size == 1:
            return [value]
        text = bytearray(json.dumps(value).encode() or b" ")
        data = torch.frombuffer(text, dtype=torch.uint8).to(self.device)
        with self.waiting_for("an exchange between ranks"):
            sizes = self.gather_rows(torch.tensor([len(data)], device=self.device)).tolist()
            texts = self.gather_rows(data).cpu()
        return [json.loads(bytes(part.tolist())) for part in texts.split(sizes)]


def gather_padded_rows(tensor: Tensor, world: World, group: dist.ProcessGroup | None) -> Tensor:
    """Return the rows of all ranks, [B, ...] -> [N, ...]; every rank sends as many as the longest has."""
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
    """Gathers rows forward; sums their gradients over ranks and takes this rank's rows backward."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, world: World, start: int) -> Tensor:
        ctx.world, ctx.rows, ctx.start = world, tensor.shape[0], start
        return gather_padded_rows(tensor, world, world.side)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        grad = grad.contiguous().clone()
        with ctx.world.waiting_for("the gradient of gathered rows"):
            dist.all_reduce(grad, group=ctx.world.side)
        return grad[ctx.start : ctx.start + ctx.rows], None, None


def is_lost_connection(error: BaseException) -> bool:
    """Return True where torch reports by `error` that a collective failed because another rank ended."""
    if isinstance(error, dist.DistError):
        return True
    message = str(error)
    return isinstance(error, RuntimeError) and any(part in message for part in CONNECTION_ERRORS)


def sum_named(world: World, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return named tensors summed over ranks in float64; a name that a rank lacks counts as zero there."""
    shapes: dict[str, list[int]] = {name: list(tensor.shape) for name, tensor in tensors.items()}
    for other_shapes in world.gather_objects(shapes):
        shapes.update({name: s for name, s in other_shapes.items() if name not in shapes})
    names = sorted(shapes)
    if not names:
        return {}

    def flattened(name: str) -> Tensor:
        if name in tensors:
            # numbers of the host and of the device come together
            return tensors[name].detach().to(world.device, torch.float64).reshape(-1)
        return torch.zeros(shapes[name], dtype=torch.float64, device=world.device).reshape(-1)

    joined = world.sum(torch.cat([flattened(name) for name in names])).cpu()
    sizes = [torch.Size(shapes[name]).numel() for name in names]
    return {name: part.view(shapes[name]) for name, part in zip(names, joined.split(sizes))}


def checksum(tensors: Iterable[Tensor]) -> int:
    """Return 63 bits that depend on every bit of the tensors.

    The bits are added as integers, so the result does not depend on the device or on the order of its additions.
    """
    sums = [
        tensor.detach()
        .contiguous()
        .view(INTEGER_TYPES[tensor.element_size()])
        .sum(dtype=torch.int64)
        for tensor in tensors
    ]
    combined = 0
    for tensor_sum in torch.stack(sums).tolist() if sums else ():
        combined = (combined * 1_000_003 + tensor_sum) & (1 << 63) - 1
    return combined
