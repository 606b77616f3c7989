"""Running the conformance kit: all rules for one component, or one test per rule for all of a kind."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from fwk.components.discovery import load_plugins, load_user_dirs
from fwk.components.registry import registry
from fwk.contracts.plain import PlainMapping
from fwk.errors import FwkError
from fwk.testing.criteria import criterion_rules
from fwk.testing.encoders import encoder_rules
from fwk.testing.noisers import noiser_rules
from fwk.testing.optimizers import optimizer_rules
from fwk.testing.schedules import schedule_rules
from fwk.testing.subject import Rule, Subject, options_are_documented

if TYPE_CHECKING:
    import pytest

FIRST_PARTY = ("fwk", "fwk_plugins")
RULES_OF_KIND: dict[str, Callable[[Subject], dict[str, Rule]]] = {
    "criterion": criterion_rules,
    "noiser": noiser_rules,
    "model": encoder_rules,
    "optimizer": optimizer_rules,
    "schedule": schedule_rules,
}


@dataclass(frozen=True)
class Result:
    """The outcome of one rule."""

    name: str
    passed: bool
    detail: str = ""  # how the rule is broken
    expected: str = ""  # the reason that the component declares for breaking this rule

    @property
    def complaint(self) -> str:
        """What is wrong: a broken rule, or one that is kept although it was declared to be broken."""
        if self.passed and self.expected:
            return f"{self.name}: declared to fail ({self.expected}), but holds"
        if not self.passed and not self.expected:
            return f"{self.name}: {self.detail}"
        return ""


def check(
    kind: str,
    name: str,
    options: PlainMapping | None = None,
    base: PlainMapping | None = None,
    user_dirs: Sequence[str] = (),
) -> list[Result]:
    """Return the outcome of every rule for one registered component.

    `options` are the component's; `base` is a nested mapping that is laid over the tiny config, where the component
    needs another task, view or encoder. An `FwkError` inside a rule breaks it. Raises UnknownName.
    """
    load_plugins(tuple(user_dirs))
    subject = Subject(kind, name, options or {}, base or {}, user_dirs)
    expected = getattr(subject.cls, "expected_failures", {})
    rules = rules_for(subject)
    return [_apply(rule, run, expected.get(rule, "")) for rule, run in rules.items()]


def rules_for(subject: Subject) -> dict[str, Rule]:
    """Return every rule for one component, by name. Tasks and hooks need documented options only."""
    rules_of_kind = RULES_OF_KIND.get(subject.kind, lambda subject: {})
    documented = partial(options_are_documented, subject.cls)
    return {**rules_of_kind(subject), "options documented": documented}


def _apply(name: str, rule: Rule, expected: str) -> Result:
    try:
        detail = rule()
    except FwkError as error:
        detail = f"{type(error).__name__}: {error}"
    return Result(name, not detail, detail, expected)


def assert_conforms(kind: str, name: str, **arguments: Any) -> None:
    """Raise AssertionError, with every complaint, unless a component conforms; `arguments` as for `check`."""
    complaints = [result.complaint for result in check(kind, name, **arguments)]
    complaints = [complaint for complaint in complaints if complaint]
    assert not complaints, f"{kind} '{name}' breaks the contract:\n  " + "\n  ".join(complaints)


def registered(kind: str, user_dirs: Sequence[str] = ()) -> list[str]:
    """Return the names of a kind that `user_dirs` register; without them, those of fwk and its own plugins."""
    load_plugins()
    packages = tuple(load_user_dirs(user_dirs)) if user_dirs else FIRST_PARTY
    return [
        entry.name
        for entry in registry.entries(kind)
        if entry.module.startswith(tuple(f"{package}." for package in packages))
        or entry.module in packages
    ]


def parametrize(
    kind: str,
    *,
    options: Mapping[str, PlainMapping] | None = None,
    base: Mapping[str, PlainMapping] | None = None,
    user_dirs: Sequence[str] = (),
    skip: Collection[str] = (),
) -> pytest.MarkDecorator:
    """Parametrize a test with every rule for every registered component of a kind.

        @parametrize("criterion")
        def test_criteria_conform(rule):
            rule()

    `options` and `base` are those of `check`, by the component's name; `skip` names components to leave out.
    """
    import pytest

    cases = []
    for name in registered(kind, user_dirs):
        if name in skip:
            continue
        subject = Subject(
            kind, name, (options or {}).get(name, {}), (base or {}).get(name, {}), user_dirs
        )
        expected = getattr(subject.cls, "expected_failures", {})
        for rule, run in rules_for(subject).items():
            test = partial(_assert_kept, subject, rule, run, expected.get(rule, ""))
            cases.append(pytest.param(test, id=f"{name}-{rule.replace(' ', '_')}"))
    return pytest.mark.parametrize("rule", cases)


def _assert_kept(subject: Subject, name: str, rule: Rule, expected: str) -> None:
    load_plugins(tuple(subject.user_dirs))
    complaint = _apply(name, rule, expected).complaint
    assert not complaint, f"{subject.kind} '{subject.name}' breaks the contract: {complaint}"
