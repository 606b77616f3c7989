"""The places of `acts` in `fwk-train`."""

from __future__ import annotations

from fwk import hookimpl

from . import acts

counted = {"save": 0, "validate": 0}


@hookimpl
def fwk_run_begin(run):
    acts.reach("begin", model=run.module, run=run)

    def forward(network, arguments):
        if not network.training:
            counted["validate"] += 1
            acts.reach("validate", counted["validate"], model=run.module, run=run)

    for network in run.module.networks.values():
        network.register_forward_pre_hook(forward)


@hookimpl
def fwk_update_begin(run):
    acts.reach("update", run.update + 1, model=run.module, run=run)


@hookimpl
def fwk_checkpoint_save(run):
    counted["save"] += 1
    acts.reach("save", counted["save"], model=run.module, run=run)
