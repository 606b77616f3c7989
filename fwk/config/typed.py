"""Check every value of a complete tree by its type and make the typed `RunConfig`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fwk.components.registry import registry
from fwk.config.checking import inline_network
from fwk.config.paths import dotted
from fwk.config.provenance import Origins
from fwk.config.run_config import RunConfig
from fwk.config.spec import (
    FROM,
    FROZEN,
    NORMALISE,
    RUN,
    SEED,
    TIE,
    TRAIN_SCHEMA,
    USER_DIRS,
    VIEW_FIELDS,
    WEIGHT,
    Component,
    CriterionSpec,
    NetworkSpec,
    TrainConfig,
)
from fwk.contracts.options import FieldSpec, Plain, convert
from fwk.contracts.plain import PlainDict
from fwk.contracts.ramp import complete_ramp

Values = Mapping[str, Plain]


class TypedValues:
    """Conversion of values to their declared types; errors name the origin of the value."""

    def __init__(self, tree: Values, origins: Origins) -> None:
        self._tree = tree
        self._origins = origins

    def run_config(self) -> RunConfig:
        """Return the typed config. Raises ConfigError naming key and origin of a wrong value."""
        tree = self._tree
        criteria = {
            label: self._criterion(label, values) for label, values in tree["criterion"].items()
        }
        networks = {
            label: NetworkSpec(
                self._model(values, "networks", label),
                self._value(TIE, values["tie"], "networks", label),
                self._value(FROZEN, values.get(FROZEN.name, False), "networks", label),
            )
            for label, values in tree["networks"].items()
        }
        views = {label: self._view(label, values) for label, values in tree["views"].items()}
        train = {
            spec.name: self._value(spec, tree["train"][spec.name], "train") for spec in TRAIN_SCHEMA
        }
        return RunConfig(
            seed=self._value(SEED, tree["seed"]),
            run=self._value(RUN, tree["run"]),
            user_dirs=self._value(USER_DIRS, tree["user_dirs"]),
            task=self._component("task", tree["task"], "task"),
            model=self._model(tree["model"], "model"),
            optimizer=self._component("optimizer", tree["optimizer"], "optimizer"),
            schedule=self._component("schedule", tree["schedule"], "schedule"),
            networks=networks,
            views=views,
            criterion=criteria,
            hooks={
                label: self._component("hook", values, "hooks", label)
                for label, values in tree["hooks"].items()
            },
            train=TrainConfig(**train),
        )

    def _value(self, spec: FieldSpec, value: Plain, *place: str) -> Any:
        path = (*place, spec.name)
        origin, typed = self._origins.of_value(path)
        return convert(value, spec, dotted(path), typed, origin)

    def _component(self, kind: str, values: Values, *place: str) -> Component:
        schema = registry.get(kind, values["name"]).schema
        options = {
            spec.name: self._value(spec, values[spec.name], *place)
            for spec in schema
            if spec.name in values
        }
        return Component(kind, values["name"], options, dotted(place))

    def _model(self, values: Values, *place: str) -> Component:
        component = self._component("model", values, *place)
        return replace(component, weights_from=self._value(FROM, values[FROM.name], *place))

    def _criterion(self, label: str, values: Values) -> CriterionSpec:
        place = ("criterion", label)
        weight = self._value(WEIGHT, values["weight"], *place)
        if isinstance(weight, Mapping):
            weight = complete_ramp(weight, f"{dotted(place)}.weight")
        normalise = self._value(NORMALISE, values["normalise"], *place)
        return CriterionSpec(label, self._component("criterion", values, *place), weight, normalise)

    def _view(self, label: str, values: Values) -> PlainDict:
        """Return what the config states of a view; options of an unknown noiser are checked later."""
        schema = {spec.name: spec for spec in VIEW_FIELDS}
        if "noiser" in values:
            noiser = registry.get("noiser", values["noiser"])
            schema.update({spec.name: spec for spec in noiser.schema})
        view = {
            key: self._value(schema[key], value, "views", label) if key in schema else value
            for key, value in values.items()
        }
        network = values.get("network")
        if isinstance(network, Mapping) and "name" in network:  # else a criterion names the model
            inline_network(f"views.{label}.network", network)
        return view
