"""Examples of components for error messages."""

from __future__ import annotations

from fwk.components.examples import such_as


def test_the_first_built_in_component_that_suits_is_named():
    assert such_as("noiser", lambda cls: cls.chooses) == ", such as 'bert_mask'"


def test_a_component_of_a_plugin_is_named_where_no_built_in_one_suits():
    assert such_as("noiser", lambda cls: cls.knows_log_q and cls.learned) == ", such as 'two_tower'"


def test_nothing_is_named_where_nothing_suits():
    assert such_as("noiser", lambda cls: False) == ""
