"""Two-stage training (Clark et al. 2020, section 3.2, "Training algorithms").

    1. For `updates` updates only the generator is trained, by its own loss.
    2. The main encoder takes the generator's weights, and the generator is frozen. Only the criteria
       are trained.

Without the copy, the discriminator may learn nothing beyond the majority class, as the paper reports.
The copy needs a generator of the main encoder's size that shares nothing with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

from torch import nn

from fwk import Encoder, LearnedNoiser, Phase, hookimpl, option, register
from fwk.contracts.hooks import RunView
from fwk.errors import ConfigError, did_you_mean

MAIN = "networks.main."


@register("hook", "two_stage")
class TwoStage:
    """First the generator alone, then the discriminator, started from it, alone."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        updates: int = option(1000, "length of the first stage", low=1)
        view: str = option("corrupted", "the view whose noiser is the generator")
        copy: bool = option(True, "start the main encoder from the generator")

    def __init__(self, config: Config) -> None:
        self.config = config

    @hookimpl
    def fwk_run_begin(self, run: RunView, resumed: bool) -> None:
        self._check_nothing_is_shared(run)
        self._check_length(run)
        if self.config.copy:
            self._check_same_shapes(run)

    @hookimpl
    def fwk_phase(self, run: RunView) -> Phase:
        if run.update < self.config.updates:
            return Phase(name="generator", off=tuple(parts(run, "criteria")))
        name = self._network_name(run)
        return Phase(
            name="discriminator",
            off=(self.config.view,),
            frozen=(f"networks.{name}.*", f"learned.{self.config.view}.*"),
            copy={MAIN: self._weights_prefix(run)} if self.config.copy else {},
            reset_optimizer=True,
            restart_schedule=True,
        )

    def _check_nothing_is_shared(self, run: RunView) -> None:
        main = {id(parameter) for parameter in parts(run, "networks")["main"].parameters()}
        shared = sum(id(parameter) in main for parameter in self._network(run).parameters())
        if shared:
            raise ConfigError(
                f"views.{self.config.view}.network.share",
                "two_stage freezes the generator, which here shares "
                f"{shared} weights with the main encoder; set it to none",
            )

    def _check_length(self, run: RunView) -> None:
        updates = run.config.train.updates
        if updates is not None and updates <= self.config.updates:
            raise ConfigError(
                "hooks.two_stage.updates",
                f"the first stage takes {self.config.updates:,} updates and the whole run "
                f"{updates:,} (train.updates), so the discriminator would never be trained",
            )

    def _check_same_shapes(self, run: RunView) -> None:
        main = shapes_below(run.module, MAIN)
        generator = shapes_below(run.module, self._weights_prefix(run))
        for name in {**main, **generator}:
            if main.get(name) != generator.get(name):
                raise ConfigError(
                    f"views.{self.config.view}.network",
                    "two_stage starts the main encoder from the generator, which is not of its shape "
                    f"({name}: {generator.get(name, 'missing')} in the generator, "
                    f"{main.get(name, 'missing')} in the main encoder); set width and layers to 1, or "
                    "hooks.two_stage.copy to false",
                )

    def _network(self, run: RunView) -> Encoder:
        """Return the generator. Raises ConfigError where the view has none."""
        noisers, view = parts(run, "learned"), self.config.view
        network = cast(LearnedNoiser, noisers[view]).network if view in noisers else None
        if network is None:
            raise ConfigError(
                "hooks.two_stage.view",
                f"no view '{view}' has a noiser with a network{did_you_mean(view, noisers)}",
            )
        return network

    def _network_name(self, run: RunView) -> str:
        """Return the generator's name among the networks."""
        generator = self._network(run)
        networks = parts(run, "networks")
        return next(name for name, network in networks.items() if network is generator)

    def _weights_prefix(self, run: RunView) -> str:
        """Return the prefix below which the generator's weights have the names of the main encoder's."""
        generator = self._network(run)
        encoder = generator.innermost()  # a 'scaled' network holds the encoder that does the work
        path = next(path for path, part in generator.named_modules() if part is encoder)
        return f"networks.{self._network_name(run)}." + (f"{path}." if path else "")


def parts(run: RunView, kind: Literal["networks", "learned", "criteria"]) -> nn.ModuleDict:
    """Return the networks, learned noisers or criteria of a run, by name."""
    return cast(nn.ModuleDict, getattr(run.module, kind))


def shapes_below(module: nn.Module, prefix: str) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the parameters whose names begin with a prefix, by the rest of the name."""
    return {
        name.removeprefix(prefix): tuple(parameter.shape)
        for name, parameter in module.named_parameters(remove_duplicate=False)
        if name.startswith(prefix)
    }
