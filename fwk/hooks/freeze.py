"""Weights that are not trained, for a part of the run or all of it.

    hooks: {freeze: {layers: 6}}                             the embeddings and the lowest six layers, for the whole run
    hooks: {freeze: {patterns: [networks.main.*], until: 0.1}}          the head alone learns first
    hooks: {freeze: {layers: 12, until: 0.5, gradual: true}}            one layer after the other joins, the last first

The last one is gradual unfreezing (Howard and Ruder 2018, section 3.3), in equal steps up to `until`: with n layers
and the embeddings frozen, the share s of the run has released floor((n + 1) s / until) of them. The state is a phase
of the run and a function of its progress, so a resumed run trains the same weights.
"""

from __future__ import annotations

from dataclasses import dataclass

from fwk.components.registry import register
from fwk.contracts.hooks import hookimpl
from fwk.contracts.options import option
from fwk.contracts.phase import Phase
from fwk.contracts.schedule import check_updates
from fwk.engine.run import Run
from fwk.errors import ConfigError
from fwk.hooks.encoder_layers import named_depths


@register("hook", "freeze")
class Freeze:
    """Leave layers, embeddings or named parameters untrained, until a point of the run."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        patterns: tuple[str, ...] = option(
            (), "glob patterns over names of parameters that are frozen, such as networks.main.*"
        )
        layers: int = option(
            0, "number of layers that are frozen, from the lowest up", low=0, high=10_000
        )
        embeddings: bool | None = option(
            None, "freeze all that is below the layers (default: where `layers` are frozen)"
        )
        network: str = option("main", "the network of these layers, by its name")
        until: float = option(
            1.0,
            "end of the freezing: a share of the run (1: it never ends), or a number of updates if above 1",
            above=0,
        )
        gradual: bool = option(
            False, "release one layer after the other, the highest first, in equal steps"
        )

        def __post_init__(self) -> None:
            check_updates("until", self.until)
            if not (self.patterns or self.layers or self.embeddings):
                raise ConfigError(
                    "", "freezes nothing; state `patterns`, `layers` or `embeddings: true`"
                )
            if self.gradual and not self.layers:
                raise ConfigError("gradual", "releases layers, and `layers` is 0")

    def __init__(self, config: Config) -> None:
        self.config = config
        self.units: list[
            tuple[str, tuple[str, ...]]
        ] = []  # what is released at once, the last first

    @hookimpl
    def fwk_run_begin(self, run: Run, resumed: bool) -> None:
        """Find the parameters by layer. Raises ConfigError where another hook decides the phase, too."""
        names = sorted(impl.plugin_name for impl in run.hooks.hook.fwk_phase.get_hookimpls())
        if len(names) > 1:
            raise ConfigError(
                f"hooks.{names[0]}",
                f"decides what is trained when, and so does {', '.join(names[1:])}; a run has one such hook",
            )
        self.units = self._units(run)

    @hookimpl
    def fwk_phase(self, run: Run) -> Phase:
        """Return which parameters are frozen at this point of the run."""
        kept = self.units[: len(self.units) - self._released(run)]
        if not kept:
            return Phase(name="everything is trained")
        frozen = [name for _, names in kept for name in names]
        return Phase(
            name=f"frozen: {', '.join(title for title, _ in kept)}",
            frozen=tuple(dict.fromkeys(frozen)),
        )

    def _units(self, run: Run) -> list[tuple[str, tuple[str, ...]]]:
        config, units = self.config, []
        if config.patterns:
            units.append((" ".join(config.patterns), config.patterns))
        with_embeddings = bool(config.layers) if config.embeddings is None else config.embeddings
        if not (config.layers or with_embeddings):
            return units
        depths, top = named_depths(run.module, config.network, "hooks.freeze")
        if config.layers >= top:
            raise ConfigError(
                "hooks.freeze.layers",
                f"the network '{config.network}' has {top - 1} layers, got {config.layers}",
            )
        for wanted in range(0 if with_embeddings else 1, config.layers + 1):
            names = tuple(name for name, depth in depths.items() if depth == wanted)
            if names:
                units.append((f"layer {wanted}" if wanted else "embeddings", names))
        return units

    def _released(self, run: Run) -> int:
        """Return how many units are trained by now."""
        until = self.config.until
        share = run.update / until if until > 1 else run.progress / until
        if share >= 1:
            return len(self.units)
        # what patterns name is released at the end
        steps = len(self.units) - bool(self.config.patterns)
        return int(share * steps + 1e-9) if self.config.gradual else 0
