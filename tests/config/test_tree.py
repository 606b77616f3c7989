"""The tree of config values, and each private call of OmegaConf that it depends on."""

from __future__ import annotations

from omegaconf import OmegaConf

from fwk.config.tree import Tree, _child, _is_mapping, _plain_value, merged


def tree_of(**values) -> Tree:
    tree = Tree()
    for key, value in values.items():
        tree.set((key,), value)
    return tree


def test_values_are_merged_in_the_order_in_which_they_are_set():
    tree = tree_of(train={"batch": 8, "clip": 0.5})
    tree.set(("train", "clip"), 0.0)
    tree.set(("train",), {"batch": 4})
    assert tree.to_mapping() == {"train": {"batch": 4, "clip": 0.0}}


def test_a_list_is_replaced_and_a_scalar_makes_room_for_a_mapping():
    tree = tree_of(a=[1, 2, 3], b=1)
    tree.set(("a",), [4])
    tree.set(("b", "c"), 2)
    assert tree.to_mapping() == {"a": [4], "b": {"c": 2}}


def test_a_value_is_asked_for_without_resolving_it():
    tree = tree_of(a="${b}", b=None, c={"d": "${nowhere}"})
    assert tree.get(("a",)) == "${b}" and tree.get(("c",)) == {"d": "${nowhere}"}
    assert tree.get(("b",)) is None and tree.get(("b", "c")) is None
    assert tree.get(("x", "y")) is None and tree.get(("a", "y")) is None


def test_removing_what_is_not_there_does_nothing():
    tree = tree_of(a={"b": 1, "c": 2}, d=None)
    for path in (("a", "b"), ("a", "b"), ("d", "e"), ("f", "g")):
        tree.remove(path)
    assert tree.to_mapping() == {"a": {"c": 2}, "d": None}


def test_labels_are_the_keys_that_are_not_null_and_can_be_reordered():
    tree = tree_of(criterion={"a": {}, "b": None, "c": {"x": "${y}"}})
    assert tree.labels("criterion") == ["a", "c"] and tree.labels("views") == []
    tree.reorder("criterion", ["c", "a"])
    assert list(tree.to_mapping()["criterion"].items()) == [("c", {"x": "${y}"}), ("a", {})]


def test_merged_leaves_both_mappings_and_their_interpolations_alone():
    values = {"a": {"b": "${x}", "c": 1}}
    assert merged(values, {"a": {"c": 2}}) == {"a": {"b": "${x}", "c": 2}}
    assert values == {"a": {"b": "${x}", "c": 1}}


def test_omegaconf_is_none_tells_a_null_mapping():
    node = OmegaConf.create({"null": None, "empty": {}})
    OmegaConf.update(node, "null", None)
    assert not _is_mapping(_child(node, "null")) and _is_mapping(_child(node, "empty"))
    assert not _is_mapping(OmegaConf.create([1])) and not _is_mapping(None)


def test_omegaconf_get_node_returns_an_interpolation_unresolved():
    node = OmegaConf.create({"a": "${nowhere}", "b": "${a}"})
    assert _plain_value(_child(node, "a")) == "${nowhere}"
    assert _child(node, "missing") is None and _child(None, "a") is None


def test_omegaconf_value_is_the_plain_scalar():
    node = OmegaConf.create({"int": 3, "text": "a", "null": None, "list": [1, "${x}"]})
    values = [_plain_value(_child(node, key)) for key in ("int", "text", "null", "list")]
    assert values == [3, "a", None, [1, "${x}"]]
