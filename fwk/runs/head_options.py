"""The form of heads that a run takes from its sources: how they pool, and whether they have a dense layer.

A head of another form cannot take the weights of a source (`HasHead.form_options`). A criterion whose head a source
has takes its form where the config states none of these options.
"""

from __future__ import annotations

from collections.abc import Mapping

from fwk.config.run_config import RunConfig
from fwk.config.spec import CriterionSpec
from fwk.contracts.plain import PlainDict
from fwk.engine.parts import MAIN
from fwk.runs.source import Source

Options = dict[str, PlainDict]  # by label of the criterion


def options_of_sources(config: RunConfig, sources: Mapping[str, Source]) -> Options:
    """Return the options that criteria take from the heads of sources. sources: by name of the network."""
    taken = {}
    for label, spec in _unstated(config).items():
        source = sources.get(_network_of(config, spec))
        name = None if source is None else source.part_for(label, spec.component.cls.roles)
        if source is not None and name is not None:
            theirs, ours = source.parts[name].options, spec.component.values
            taken[label] = {
                option: value
                for option, value in theirs.items()
                if option in spec.component.cls.form_options and value != ours[option]
            }
    return {label: options for label, options in taken.items() if options}


def recorded_options(config: RunConfig, recorded: RunConfig) -> Options:
    """Return the options that criteria took from sources when the run began. recorded: the config of the run."""
    taken = {}
    for label, spec in _unstated(config).items():
        before = recorded.criterion.get(label)
        if before is not None and before.component.name == spec.component.name:
            options = spec.component.cls.form_options
            taken[label] = {option: before.component.values[option] for option in options}
    return taken


def _unstated(config: RunConfig) -> dict[str, CriterionSpec]:
    """Return the criteria of whose form the config states nothing."""
    return {
        label: spec
        for label, spec in config.criterion.items()
        if spec.component.cls.form_options
        and all(
            config.provenance.get(f"criterion.{label}.{option}", "default") == "default"
            for option in spec.component.cls.form_options
        )
    }


def _network_of(config: RunConfig, spec: CriterionSpec) -> str:
    """Return the name of the network whose encodings a criterion reads."""
    views = config.views_by_name
    reads = spec.component.cls.reads(spec.component.config)
    networks = {views[name].encoder for name, read in reads.items() if read.encoded}
    return networks.pop() if len(networks) == 1 else MAIN
