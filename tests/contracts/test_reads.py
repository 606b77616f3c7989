"""`Criterion.reads`, and the four methods of version 0.1 that it replaced."""

from __future__ import annotations

import warnings

import pytest

from fwk import Criterion, Output, Read, register
from fwk.errors import PluginError

MASKED, PLAIN = {"noiser": "bert_mask"}, {"noiser": "identity"}


class Rest(Criterion):
    """What a criterion needs besides `reads`."""

    def normalizers(self, views, context):
        return {}

    def forward(self, views, context):
        return Output()


def old_criterion():
    """A criterion as it was written for version 0.1."""

    class Old(Rest):
        @classmethod
        def views(cls, config):
            return {"judged": MASKED, "masked": PLAIN, "shared": None}

        @classmethod
        def encoded(cls, config):
            return ("judged", "shared")

        @classmethod
        def needs_positions(cls, config):
            return ("judged",)

        @classmethod
        def needs_log_q(cls, config):
            return ("masked",)

    return Old


def test_a_view_is_encoded_and_may_lack_positions_and_log_q_by_default():
    assert Read() == Read(default=None, encoded=True, positions=False, log_q=False)


def test_the_old_methods_are_read_as_one_declaration():
    with pytest.warns(DeprecationWarning, match="`reads` replaces"):
        old = old_criterion()
    assert old.reads(old.Config()) == {
        "judged": Read(MASKED, positions=True),
        "masked": Read(PLAIN, encoded=False, log_q=True),
        "shared": Read(None),
    }


def test_views_alone_are_all_encoded():
    with pytest.warns(DeprecationWarning, match="`reads` replaces"):

        class OnlyViews(Rest):
            @classmethod
            def views(cls, config):
                return {"a": MASKED, "b": None}

    assert OnlyViews.reads(None) == {"a": Read(MASKED), "b": Read()}


def test_the_warning_names_class_file_and_what_to_write_and_comes_once():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        old = old_criterion()
        old.reads(None)
        old.reads(None)
    (warning,) = caught
    text = str(warning.message)
    assert warning.category is DeprecationWarning and warning.filename == __file__
    assert "Old" in text and f"{__file__}:{warning.lineno}" in text
    assert "views, encoded, needs_positions, needs_log_q" in text
    assert "`reads(cls, config)`" in text and "fwk.Read(default, " in text


def test_an_old_subclass_of_a_migrated_criterion_overrides_what_it_defines():
    class New(Rest):
        @classmethod
        def reads(cls, config):
            return {"a": Read(MASKED, encoded=False), "b": Read(PLAIN)}

    with pytest.warns(DeprecationWarning, match="`reads` replaces"):

        class Needs(New):
            @classmethod
            def needs_positions(cls, config):
                return ("a",)

        class More(Needs):
            @classmethod
            def views(cls, config):
                return {**super().views(config), "c": None}

    assert Needs.reads(None) == {"a": Read(MASKED, encoded=False, positions=True), "b": Read(PLAIN)}
    assert More.reads(None) == {**Needs.reads(None), "c": Read()}


def test_a_class_with_both_is_read_by_the_new_method_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")

        class Both(Rest):
            @classmethod
            def views(cls, config):
                return {"a": MASKED}

            @classmethod
            def reads(cls, config):
                return {"a": Read(MASKED, positions=True)}

    assert Both.reads(None) == {"a": Read(MASKED, positions=True)}


def test_the_old_names_answer_for_a_migrated_criterion():
    class New(Rest):
        @classmethod
        def reads(cls, config):
            return {"a": Read(MASKED, encoded=False, positions=True), "b": Read(None, log_q=True)}

    assert New.views(None) == {"a": MASKED, "b": None}
    assert New.encoded(None) == ("b",)
    assert New.needs_positions(None) == ("a",)
    assert New.needs_log_q(None) == ("b",)


def test_a_criterion_with_neither_is_refused_at_registration():
    with pytest.raises(PluginError, match="the criterion 'reads_nothing' leaves out reads"):
        register("criterion", "reads_nothing")(Rest)


def test_a_criterion_has_at_most_twelve_methods():
    methods = [
        name
        for name, value in vars(Criterion).items()
        if callable(getattr(value, "__func__", value)) and not isinstance(value, type)
    ]
    assert len([name for name in methods if not name.startswith("__")]) <= 12


def test_our_own_criteria_use_the_new_method():
    from fwk import registry
    from fwk.contracts.replaced import ReadsByOldNames

    old_names = {name for name in vars(ReadsByOldNames) if not name.startswith("_")}
    old = [
        f"{entry.name}: {base.__qualname__}.{name}"
        for entry in registry.entries("criterion")
        if entry.module.split(".")[0] in ("fwk", "fwk_plugins")
        for base in entry.cls.__mro__
        if base is not ReadsByOldNames
        for name in old_names & vars(base).keys()
    ]
    assert len(old_names) == 4 and not old
