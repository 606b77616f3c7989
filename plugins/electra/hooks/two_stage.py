"""Two-stage training (Clark et al. 2020, section 3.2, "Training algorithms").

    1. For `updates` updates only the generator is trained, by its own loss.
    2. The main encoder takes the generator's weights, which stay as they are from here on; only the criteria are trained.

Without the copy the discriminator may not learn anything at all beyond the majority class, as the paper reports. It needs a
generator of the main encoder's size that shares nothing with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fwk import Phase, hookimpl, option, register
from fwk.errors import ConfigError, did_you_mean


@register("hook", "two_stage")
class TwoStage:
    """First the generator alone, then the discriminator, started from it, alone."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        updates: int = option(1000, "length of the first stage", low=1)
        view: str = option("corrupted", "the view whose noiser is the generator")
        copy: bool = option(True, "start the main encoder from the generator")

    def __init__(self, config: Config):
        self.config = config

    @hookimpl
    def fwk_run_begin(self, run: Any, resumed: bool) -> None:
        network = self._network(run)
        shared = {id(p) for p in run.module.networks["main"].parameters()} & {
            id(p) for p in network.parameters()
        }
        if shared:
            raise ConfigError(
                f"views.{self.config.view}.network.share",
                "two_stage freezes the generator, and here it shares "
                f"{len(shared)} weights with the main encoder; set it to none",
            )
        updates = run.config.train.updates
        if updates is not None and updates <= self.config.updates:
            raise ConfigError(
                "hooks.two_stage.updates",
                f"the first stage takes {self.config.updates:,} updates and the whole run "
                f"{updates:,} (train.updates), so the discriminator would never be trained",
            )
        name, prefix = self._names(run)
        tensors = {
            key: tuple(p.shape) for key, p in run.module.named_parameters(remove_duplicate=False)
        }
        ours, theirs = (
            {key[len(start) :]: shape for key, shape in tensors.items() if key.startswith(start)}
            for start in ("networks.main.", prefix)
        )
        if self.config.copy and ours != theirs:
            other = next(key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key))
            raise ConfigError(
                f"views.{self.config.view}.network",
                "two_stage starts the main encoder from the generator, which is not "
                f"of its shape ({other}: {theirs.get(other, 'missing')} there, {ours.get(other, 'missing')} here); set "
                "width and layers to 1, or hooks.two_stage.copy to false",
            )

    @hookimpl
    def fwk_phase(self, run: Any) -> Phase:
        view = self.config.view
        if run.update < self.config.updates:
            return Phase(name="generator", off=tuple(run.module.criteria))
        name, prefix = self._names(run)
        copy = {"networks.main.": prefix} if self.config.copy else {}
        return Phase(
            name="discriminator",
            off=(view,),
            frozen=(f"networks.{name}.*", f"learned.{view}.*"),
            copy=copy,
            reset_optimizer=True,
            restart_schedule=True,
        )

    def _network(self, run: Any) -> Any:
        learned = run.module.learned
        if self.config.view not in learned:
            raise ConfigError(
                "hooks.two_stage.view",
                f"there is no view '{self.config.view}' with a learned noiser"
                f"{did_you_mean(self.config.view, learned)}",
            )
        return learned[self.config.view].network

    def _names(self, run: Any) -> tuple[str, str]:
        """The generator's name among the networks, and the prefix under which its weights are those of a main encoder."""
        network = self._network(run)
        name = next(name for name, other in run.module.networks.items() if other is network)
        return name, f"networks.{name}." + ("inner." if hasattr(network, "inner") else "")
