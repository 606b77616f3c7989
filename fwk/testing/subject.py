"""The component that the kit examines, and how a rule is made ready to run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from fwk.components.registry import registry
from fwk.config.run_config import RunConfig
from fwk.contracts.plain import PlainMapping
from fwk.testing.config import merge_settings, tiny_config

Rule = Callable[[], str]  # returns how the component breaks the rule, "" where it keeps it
ConfigRule = Callable[[RunConfig], str]


@dataclass(frozen=True)
class Subject:
    """A registered component under examination."""

    kind: str
    name: str
    options: PlainMapping = field(default_factory=dict)  # of the component
    base: PlainMapping = field(default_factory=dict)  # laid over the tiny config
    user_dirs: Sequence[str] = ()

    @property
    def cls(self) -> type[Any]:
        """The registered class."""
        return registry.get(self.kind, self.name).cls

    def config(self, settings: PlainMapping) -> RunConfig:
        """Return the tiny config with `settings`, and then the subject's `base`, laid over it."""
        return tiny_config(merge_settings(settings, self.base), self.user_dirs)

    def rules(
        self, config_rules: Mapping[str, ConfigRule], settings: PlainMapping
    ) -> dict[str, Rule]:
        """Return rules about configs as rules about this subject, trained with `settings`."""
        return {name: self._rule(rule, settings) for name, rule in config_rules.items()}

    def _rule(self, rule: ConfigRule, settings: PlainMapping) -> Rule:
        return lambda: rule(self.config(settings))  # an error in the config breaks the rule


def options_are_documented(cls: type[Any]) -> str:
    """Check that every field of a component's `Config` has a documentation."""
    config = getattr(cls, "Config", None)  # a hook may have no options
    options = fields(config) if config is not None and is_dataclass(config) else ()
    undocumented = [option.name for option in options if not option.metadata.get("doc")]
    if undocumented:
        return (
            f"without documentation: {', '.join(undocumented)}; use option(default, 'what it is')"
        )
    return ""
