"""The views of a config: those that its criteria bring, changed by what the config states, checked as one graph."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from fwk.components.examples import such_as
from fwk.components.registry import registry
from fwk.config.checking import (
    complete_values,
    inline_network,
    require_known,
    require_label,
    require_module_name,
)
from fwk.config.conflicts import require_one_definition
from fwk.config.spec import VIEW_FIELDS, Component, CriterionSpec, NetworkSpec, ViewSpec
from fwk.config.tree import merged
from fwk.contracts.options import Plain, convert, plain
from fwk.errors import ConfigError, did_you_mean

Criteria = Mapping[str, CriterionSpec]  # by label
Views = Mapping[str, ViewSpec]  # by name
Stated = Mapping[str, Mapping[str, Plain]]  # by name, as the config states them


def complete_views(
    criteria: Criteria, stated: Stated, networks: Sequence[str], averages: bool
) -> dict[str, ViewSpec]:
    """Return every view of a run by name: what the criteria bring, overridden by key with what the config states.

    A noiser that the config names drops the options of the default one. `networks` are the names under `networks`;
    `averages` is true where the run keeps a moving average of its weights. Raises ConfigError naming the key: views
    that two criteria define differently, unknown views and networks, circles, options without a use.
    """
    _check_labels(criteria, networks)
    views = {
        name: _view_spec(name, values) for name, values in _merged_views(criteria, stated).items()
    }
    for view in views.values():
        _check_view(view, views, ["main", *networks], averages)
    for label, criterion in criteria.items():
        for name, read in criterion.reads().items():
            if read.positions:
                _check_has_positions(label, views[name], views)
            if read.any_token:
                _check_chooses_any_token(label, views[name], views)
            if read.log_q:
                _check_has_log_q(label, views[name])
    _check_loss_names(criteria, views)
    return views


def unused_views(criteria: Criteria, views: Views) -> list[str]:
    """Return the views that no criterion reads, directly or through a view made of them.

    A learned noiser's view is used in any case, because it has a loss of its own.
    """
    read: set[str] = set()
    for criterion in criteria.values():
        for name in criterion.reads():
            read.update(_lineage(name, views))
    return [name for name, view in views.items() if name not in read and not view.cls.learned]


def parts_of_views(views: Views) -> dict[str, str]:
    """Return the task whose examples a view shows, by view that shows those of one of several tasks.

    A view that is made of another one shows what that one shows.
    """
    roots = {name: views[_lineage(name, views)[-1]].part for name in views}
    return {name: part for name, part in roots.items() if part is not None}


def unused_networks(networks: Iterable[str], views: Views) -> list[str]:
    """Return the networks that no view names."""
    used = {view.encoder for view in views.values()}
    used.update(view.network for view in views.values() if isinstance(view.network, str))
    return [name for name in networks if name not in used]


# ---- merging ----


def _merged_views(criteria: Criteria, stated: Stated) -> dict[str, Mapping[str, Plain]]:
    """Return the values of every view: definitions of criteria first, then views that they only read, then others."""
    declared = [
        (label, name, read.default)
        for label, criterion in criteria.items()
        for name, read in criterion.reads().items()
    ]
    views: dict[str, Mapping[str, Plain]] = {}
    owners: dict[str, str] = {}
    for label, name, default in declared:
        if default is None:
            continue
        view = _overridden(plain(default), stated.get(name, {}))
        _require_noiser(name, view, label)
        if name in views and views[name] != view:
            definitions = {owners[name]: views[name], label: view}
            require_one_definition(
                name, {who: _view_spec(name, v).to_mapping() for who, v in definitions.items()}
            )
        views[name], owners[name] = view, label

    for label, name, _ in declared:
        if name not in views:
            view = _overridden({}, stated.get(name, {}))
            _require_noiser(name, view, label)
            views[name] = view

    for name, values in stated.items():
        if name not in views:
            if "noiser" not in values:
                raise ConfigError(
                    f"views.{name}",
                    f"no criterion reads a view of this name, and it has no noiser"
                    f"{did_you_mean(name, views)}",
                )
            views[name] = values
    return views


def _require_noiser(name: str, view: Mapping[str, Plain], label: str) -> None:
    if "noiser" not in view:
        raise ConfigError(
            f"views.{name}",
            f"criterion '{label}' reads this view, and nothing says how it is made; "
            "give it a noiser under 'views'",
        )


def _overridden(default: Mapping[str, Plain], stated: Mapping[str, Plain]) -> dict[str, Plain]:
    """Return a view's default values with the stated ones merged over them."""
    if "noiser" in stated and stated["noiser"] != default.get("noiser"):
        kept = ("of", "mode", "ema", "encoder", "fields", "part")
        default = {key: default[key] for key in default if key in kept}

    model = _inline_model(default)
    if model and _inline_model(stated) not in (None, model):
        default = {**default, "network": None}  # options of another model have no meaning
    return merged(default, stated)


def _inline_model(view: Mapping[str, Plain]) -> str | None:
    """Return the model of a view's inline network, where one is named."""
    network = view.get("network")
    return network.get("name") if isinstance(network, Mapping) else None


def _view_spec(name: str, values: Mapping[str, Plain]) -> ViewSpec:
    """Return a view with every option checked and defaults filled in. Raises ConfigError."""
    key = f"views.{name}"
    options = dict(values)
    noiser = options.pop("noiser")
    schema = registry.get("noiser", noiser, f"given in {key}.noiser").schema
    structure = {
        spec.name: convert(options.pop(spec.name, spec.default), spec, f"{key}.{spec.name}")
        for spec in VIEW_FIELDS[1:]
    }

    owner = f"noiser '{noiser}'"
    known = [spec.name for spec in (*schema, *VIEW_FIELDS)]
    for option_name in options:
        require_known((key, option_name), option_name, known, owner)
    if isinstance(structure["network"], Mapping):
        structure["network"] = inline_network(f"{key}.network", structure["network"])
    component = Component("noiser", noiser, complete_values(schema, options, key, owner), key)
    return ViewSpec(name, component, **structure)


# ---- checks of the graph ----


def _check_labels(criteria: Criteria, networks: Sequence[str]) -> None:
    """Check the names of parameters that labels become, and the labels of views that options name."""
    for name in networks:
        require_module_name(name, f"networks.{name}")
    for label, criterion in criteria.items():
        require_module_name(label, f"criterion.{label}")
        for name in criterion.reads():
            require_label(name, f"criterion.{label}")


def _check_view(view: ViewSpec, views: Views, networks: Sequence[str], averages: bool) -> None:
    _check_options(view)
    _check_name(view)
    _check_parent_exists(view, views)
    _check_networks_exist(view, networks)
    _check_network_is_used(view)
    _check_prepare_is_needed(view, views)
    _check_fields(view)
    _check_average_exists(view, averages)
    _check_no_circle(view, views)
    _check_parent_has_positions(view, views)


def _check_options(view: ViewSpec) -> None:
    _ = view.component.config  # raises ConfigError


def _check_name(view: ViewSpec) -> None:
    if view.cls.learned:
        require_module_name(view.name, f"views.{view.name}")
    if view.name == "batch":
        raise ConfigError("views.batch", "'batch' is the batch itself; choose another name")


def _check_parent_exists(view: ViewSpec, views: Views) -> None:
    if view.of is not None and view.of not in views:
        raise ConfigError(
            f"views.{view.name}.of", f"there is no view '{view.of}'{did_you_mean(view.of, views)}"
        )


def _check_networks_exist(view: ViewSpec, networks: Sequence[str]) -> None:
    for field, network in (("encoder", view.encoder), ("network", view.network)):
        if isinstance(network, str) and network not in networks:
            raise ConfigError(
                f"views.{view.name}.{field}",
                f"there is no network '{network}'{did_you_mean(network, networks)}",
            )


def _check_network_is_used(view: ViewSpec) -> None:
    if isinstance(view.network, NetworkSpec):
        _ = view.network.component.config  # raises ConfigError
    if view.network is not None and not view.cls.learned:
        raise ConfigError(
            f"views.{view.name}.network",
            f"noiser '{view.noiser}' is not learned and has no use for a network",
        )


def _check_prepare_is_needed(view: ViewSpec, views: Views) -> None:
    if view.prepare and not any(views[name].cls.learned for name in _lineage(view.name, views)):
        raise ConfigError(
            f"views.{view.name}.prepare",
            f"noiser '{view.noiser}' is not learned, nor is any that it builds on: the view "
            "is always known before the counts are taken",
        )


def _check_fields(view: ViewSpec) -> None:
    stated = [key for key in ("fields", "part") if getattr(view, key)]
    if stated and (view.of is not None or view.cls.learned):
        what = f"made of '{view.of}'" if view.of is not None else "made by a network"
        raise ConfigError(
            f"views.{view.name}.{stated[0]}",
            f"this view is {what}; only a static view of the batch itself renders texts or shows a part: state "
            f"'{stated[0]}' on a view of the noiser 'identity', and make this one of it",
        )


def _check_average_exists(view: ViewSpec, averages: bool) -> None:
    if view.ema and not averages:
        raise ConfigError(
            f"views.{view.name}.ema",
            "there is no moving average of the weights; set train.ema to its decay",
        )


def _check_no_circle(view: ViewSpec, views: Views) -> None:
    lineage = _lineage(view.name, views)
    first = views[lineage[-1]].of
    if first in lineage:
        raise ConfigError(
            f"views.{view.name}.of",
            f"views are made of each other in a circle: {' of '.join([*lineage, first])}",
        )


def _check_parent_has_positions(view: ViewSpec, views: Views) -> None:
    if view.cls.reads_positions and not _may_have_positions(view.of, views):
        parent = f"view '{view.of}'" if view.of else "the batch itself"
        raise ConfigError(
            f"views.{view.name}.of",
            f"noiser '{view.noiser}' changes the chosen positions of its parent, and {parent} has "
            f"none; name a view whose noiser chooses some{such_as('noiser', lambda cls: cls.chooses is True)}",
        )


def _check_has_positions(label: str, view: ViewSpec, views: Views) -> None:
    if not _may_have_positions(view.name, views):
        raise ConfigError(
            f"views.{view.name}.noiser",
            f"criterion '{label}' reads chosen positions, and '{view.noiser}' chooses none; "
            f"expected a noiser that does{such_as('noiser', lambda cls: cls.chooses is True)}",
        )


def _check_chooses_any_token(label: str, view: ViewSpec, views: Views) -> None:
    for parent in _lineage(view.name, views):
        if views[parent].cls.chooses_by_token:
            others = such_as("noiser", lambda cls: cls.chooses is True and not cls.chooses_by_token)
            raise ConfigError(
                f"views.{parent}.noiser",
                f"criterion '{label}' needs positions that are chosen whatever tokens stand there, and "
                f"'{views[parent].noiser}' chooses by token; expected another noiser{others}",
            )


def _check_has_log_q(label: str, view: ViewSpec) -> None:
    if not view.cls.knows_log_q:
        known = ", ".join(e.name for e in registry.entries("noiser") if e.cls.knows_log_q)
        raise ConfigError(
            f"views.{view.name}.noiser",
            f"criterion '{label}' needs log q of every token, which '{view.noiser}' does not know; "
            f"expected {f'one of {known}' if known else 'a noiser that does'}",
        )


def _check_loss_names(criteria: Criteria, views: Views) -> None:
    for name, view in views.items():
        if view.cls.learned and name in criteria:
            raise ConfigError(
                f"views.{name}",
                "a criterion has the same label; losses are logged under these names, rename one",
            )


def _lineage(name: str | None, views: Views) -> list[str]:
    """Return a view and those it is made of, as far as they are known; a circle is walked once."""
    lineage: dict[str, None] = {}  # a list would be searched for each view
    while name is not None and name in views and name not in lineage:
        lineage[name] = None
        name = views[name].of
    return list(lineage)


def _may_have_positions(name: str | None, views: Views) -> bool:
    """Return False where every noiser of a view's lineage declares that it chooses no positions.

    Named texts that a view renders may be a prompt, whose mask is a chosen position; that is known once the task is
    built.
    """
    return any(
        views[parent].cls.chooses is not False or views[parent].fields
        for parent in _lineage(name, views)
    )
