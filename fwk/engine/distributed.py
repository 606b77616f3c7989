"""Everything that crosses ranks. Only this file calls collectives; without a process group each is the identity."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from fwk.errors import RunError, UserError


@dataclass
class World:
    """Who this process is. `side` is a second group, for collectives inside forward and backward passes, whose order
    relative to the gradient reduction differs from rank to rank."""

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")
    side: Any = None

    @property
    def main(self) -> bool:
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over ranks; in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def rows(self, tensor: Tensor) -> Tensor:
        """[B, ...] -> the rows of all ranks, rank 0 first; B may differ from rank to rank. No gradient."""
        return all_rows(tensor, self, None) if self.size > 1 else tensor

    def gather(self, tensor: Tensor) -> tuple[Tensor, Tensor]:
        """The rows of all ranks [N, ...] and which of them are ours, int64 [B]; with gradient: what any rank's loss says
        about a row reaches the rank that made it."""
        mine = torch.arange(len(tensor), device=tensor.device)
        if self.size == 1:
            return tensor, mine
        sizes = torch.zeros(self.size, dtype=torch.int64, device=tensor.device)
        sizes[self.rank] = len(tensor)
        dist.all_reduce(sizes, group=self.side)
        start = sizes[: self.rank].sum()
        return _Gather.apply(tensor, self, int(start)), mine + start

    def objects(self, value: Any) -> list[Any]:
        """JSON-able values of all ranks, in rank order (text travels, nothing is unpickled)."""
        if self.size == 1:
            return [value]
        data = torch.frombuffer(bytearray(json.dumps(value).encode() or b" "), dtype=torch.uint8).to(self.device)
        sizes = self.rows(torch.tensor([len(data)], device=self.device)).tolist()
        flat = self.rows(data).cpu()
        return [json.loads(bytes(part.tolist())) for part in flat.split(sizes)]


def all_rows(tensor: Tensor, world: World, group: Any) -> Tensor:
    sizes = torch.zeros(world.size, dtype=torch.int64, device=tensor.device)
    sizes[world.rank] = tensor.shape[0]
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
        dist.all_reduce(grad, group=ctx.world.side)
        return grad[ctx.start : ctx.start + ctx.rows], None, None


@contextmanager
def process_group(device: str, timeout: float) -> Iterator[World]:
    """Joins the job that torchrun's variables describe (or none), and leaves it. UserError when they contradict."""
    env = {name: os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")}
    chosen = choose_device(device, int(env["LOCAL_RANK"] or 0))
    if env["WORLD_SIZE"] is None or (env["WORLD_SIZE"] == "1" and env["MASTER_ADDR"] is None):
        yield World(device=chosen)
        return
    missing = [name for name, value in env.items() if value is None]
    if missing:
        raise UserError(f"WORLD_SIZE is set but {', '.join(missing)} is not; start with torchrun, which sets them all")
    try:
        rank, size = int(env["RANK"]), int(env["WORLD_SIZE"])
    except ValueError:
        raise UserError(f"RANK '{env['RANK']}' and WORLD_SIZE '{env['WORLD_SIZE']}' must be integers") from None
    if not 0 <= rank < size:
        raise UserError(f"RANK {rank} does not lie in [0, WORLD_SIZE {size})")
    backend = "nccl" if chosen.type == "cuda" else "gloo"
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    limit = timedelta(seconds=timeout)
    joined = not dist.is_initialized()  # a program that trains several times keeps the group it made
    if joined:
        try:
            dist.init_process_group(backend, timeout=limit, device_id=chosen if chosen.type == "cuda" else None)
        except (dist.DistError, RuntimeError) as error:
            raise RunError(f"rank {rank} of {size} could not join the job at {env['MASTER_ADDR']}:{env['MASTER_PORT']} "
                           f"within {timeout:g} s: {str(error).splitlines()[0]}") from error
    try:
        yield World(rank=rank, size=size, device=chosen, side=dist.new_group(timeout=limit))
    finally:
        if joined:
            dist.destroy_process_group()


def choose_device(device: str, local_rank: int) -> torch.device:
    """`auto`, `cpu`, `cuda`, `cuda:N` -> a device; each rank of a node takes its own GPU."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise UserError(f"train.device: '{device}' is no device; expected auto, cpu, cuda or cuda:N") from None
    if chosen.type == "cuda":
        if not torch.cuda.is_available():
            raise UserError(f"train.device: '{device}' was asked for, but torch sees no CUDA device here; use cpu or auto")
        index = local_rank if chosen.index is None else chosen.index
        if index >= torch.cuda.device_count():
            raise UserError(f"train.device: '{device}' needs GPU {index}, and there are {torch.cuda.device_count()}")
        return torch.device("cuda", index)
    if chosen.type != "cpu":
        raise UserError(f"train.device: '{device}' is not supported; expected auto, cpu, cuda or cuda:N")
    return chosen


def sum_named(world: World, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Named additive tensors, summed over ranks in float64; a name that some rank lacks counts as zero there."""
    shapes: dict[str, list[int]] = {name: list(tensor.shape) for name, tensor in tensors.items()}
    for other in world.objects(shapes):
        shapes.update({name: shape for name, shape in other.items() if name not in shapes})
    names = sorted(shapes)
    if not names:
        return {}
    flat = torch.cat([
        tensors[name].detach().double().reshape(-1) if name in tensors
        else torch.zeros(shapes[name], dtype=torch.float64, device=world.device).reshape(-1)
        for name in names
    ]).to(world.device)
    world.sum(flat)
    sizes = [torch.Size(shapes[name]).numel() for name in names]
    return {name: part.view(shapes[name]).cpu() for name, part in zip(names, flat.split(sizes))}
