"""New weights for the top of an encoder, before a run fine-tunes it (Zhang et al. 2021).

The layers nearest to the objective of pretraining may be worth less than new ones where examples are few (Zhang et al.
2021, "Revisiting few-sample BERT fine-tuning", section 5: the pooler and the top 1 to 6 layers of BERT-large).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from torch import nn

from fwk.components.registry import register
from fwk.contracts.encoder import Encoder
from fwk.contracts.hooks import hookimpl
from fwk.contracts.keyed import fold
from fwk.contracts.options import option
from fwk.engine.run import Run
from fwk.errors import ConfigError
from fwk.hooks.encoder_layers import named_depths

logger = logging.getLogger(__name__)


@register("hook", "reinitialise")
class Reinitialise:
    """Give the last layers of an encoder, and what is above them, new weights when a run begins."""

    listens_only = False  # it changes the weights, whichever hooks it implements

    @dataclass(frozen=True, kw_only=True)
    class Config:
        layers: int = option(
            1, "number of layers with new weights, from the last one down", low=0, high=10_000
        )
        pooler: bool = option(
            True, "likewise what is above the layers: the pooler, and the norm of a pre-LN encoder"
        )
        network: str = option("main", "the network, by its name")

    def __init__(self, config: Config) -> None:
        self.config = config

    @hookimpl
    def fwk_run_begin(self, run: Run, resumed: bool) -> None:
        """Draw the weights, unless the run goes on with those that it has; weights to start from are loaded by now."""
        config = self.config
        depths, top = named_depths(run.module, config.network, "hooks.reinitialise")
        if config.layers >= top:
            raise ConfigError(
                "hooks.reinitialise.layers",
                f"the network '{config.network}' has {top - 1} layers, got {config.layers}",
            )
        if resumed:
            return
        lowest, highest = top - config.layers, top if config.pooler else top - 1
        chosen = {name for name, depth in depths.items() if lowest <= depth <= highest}
        encoder = run.module.networks[config.network]
        assert isinstance(encoder, Encoder)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(fold(run.config.seed, "reinitialise", config.network))
            draw(encoder, f"networks.{config.network}.", chosen)
        if run.average is not None:
            run.average.restart(sorted(chosen))
        if run.world.main:
            logger.info("%d weights of the network '%s' are new", len(chosen), config.network)


def draw(encoder: Encoder, prefix: str, chosen: set[str]) -> None:
    """Draw the weights of the innermost modules whose parameters are all chosen.

    prefix: of the encoder's parameters in `chosen`. They are drawn on the CPU, so that every device has the same ones.
    """
    for path, module in encoder.named_modules():
        place = f"{prefix}{path}." if path else prefix
        own = [place + name for name, _ in module.named_parameters(recurse=False)]
        if own and chosen.issuperset(own):
            _draw_on_cpu(encoder, module)


def _draw_on_cpu(encoder: Encoder, module: nn.Module) -> None:
    device = next(module.parameters(recurse=False)).device
    module.to("cpu")
    with torch.no_grad():
        encoder.reinitialise(module)
    module.to(device)
