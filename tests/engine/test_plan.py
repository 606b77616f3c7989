"""The order of making and encoding views."""

import pytest

from fwk.engine.plan import Encode, Make, Node, make_plan, share_calls
from fwk.errors import ConfigError


def plan(*nodes, encoded):
    return make_plan({node.name: node for node in nodes}, encoded)


def test_two_static_views_share_one_call():
    made = plan(Node(name="a"), Node(name="b"), encoded=["a", "b"])
    assert made.static == ("a", "b") and made.actions == (Encode(("a", "b")),)


def test_a_view_that_only_criteria_need_waits_for_the_learned_one():
    made = plan(
        Node(name="masked"),
        Node(name="corrupted", parent="masked", learned=True),
        Node(name="cropped"),
        encoded=["cropped", "corrupted"],
    )
    assert made.actions == (Make("corrupted"), Encode(("corrupted", "cropped")))


def test_a_static_view_of_a_learned_one_is_made_inside_the_forward_pass():
    made = plan(
        Node(name="masked"),
        Node(name="corrupted", parent="masked", learned=True),
        Node(name="cropped", parent="corrupted"),
        encoded=["cropped"],
    )
    assert made.static == ("masked",)
    assert made.actions == (Make("corrupted"), Make("cropped"), Encode(("cropped",)))


def test_a_noiser_that_reads_an_encoding_gets_it_first_and_nothing_else_is_encoded_early():
    made = plan(
        Node(name="plain"),
        Node(name="other"),
        Node(name="hard", parent="plain", learned=True, reads_encoding=True),
        encoded=["hard", "other"],
    )
    assert made.actions == (Encode(("plain",)), Make("hard"), Encode(("other", "hard")))


def test_views_of_different_mode_never_share_a_call():
    made = plan(
        Node(name="student"),
        Node(name="teacher", group=("main", "teacher", False)),
        encoded=["student", "teacher"],
    )
    assert made.actions == (Encode(("student",)), Encode(("teacher",)))


def test_until_repeats_only_what_a_prepared_view_needs():
    nodes = {
        n.name: n
        for n in (
            Node(name="masked"),
            Node(name="corrupted", parent="masked", learned=True),
            Node(name="x"),
        )
    }
    made = make_plan(nodes, ["corrupted", "x"])
    assert made.until(["corrupted"], nodes) == (Make("corrupted"),)


def test_circles_and_unknown_sources_are_refused_by_name():
    with pytest.raises(ConfigError, match="in a circle"):
        plan(Node(name="a", parent="b"), Node(name="b", parent="a"), encoded=["a"])
    with pytest.raises(ConfigError, match="Did you mean 'masked'"):
        plan(Node(name="masked"), Node(name="a", parent="maskd"), encoded=["a"])


@pytest.mark.parametrize(
    "lengths,calls",
    [
        ([32, 32], [[0, 1]]),
        ([32, 29], [[0, 1]]),
        ([512, 16], [[0], [1]]),
        ([16, 512, 500], [[0], [1, 2]]),
    ],
)
def test_views_share_a_call_where_padding_is_cheap(lengths, calls):
    assert share_calls(lengths, [8] * len(lengths)) == calls
