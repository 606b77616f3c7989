import math

import pytest
import torch
from torch import nn

from fwk.errors import ConfigError
from fwk.optim.adamw import AdamW
from fwk.optim.base import set_learning_rate
from fwk.optim.groups import layer_depths, parameter_groups
from fwk.optim.sgd import SGD

CPU = torch.device("cpu")


class Encoder(nn.Module):
    def __init__(self, layers=2):
        super().__init__()
        self.embeddings = nn.Embedding(5, 4)
        self.layers = nn.ModuleList([nn.Linear(4, 4) for _ in range(layers)])
        self.final_norm = nn.LayerNorm(4)


class Everything(nn.Module):
    def __init__(self):
        super().__init__()
        self.networks = nn.ModuleDict({"main": Encoder(2), "generator": Encoder(1)})
        self.criteria = nn.ModuleDict({"masked_lm": nn.ModuleDict({"layers": nn.ModuleList([nn.Linear(4, 5)])})})


def by_name(groups, key):
    return {name: group[key] for group in groups for name in group["names"]}


def groups_of(module, **settings):
    return parameter_groups(module.named_parameters(), AdamW.Config(**settings))


def test_every_parameter_is_in_exactly_one_group_beside_its_name():
    module = Everything()
    groups = groups_of(module, layer_decay=0.5, lr_scales={"networks.generator.*": 0.1})
    pairs = [pair for group in groups for pair in zip(group["names"], group["params"], strict=True)]
    assert len(pairs) == len(list(module.parameters()))
    assert {name: id(p) for name, p in pairs} == {name: id(p) for name, p in module.named_parameters()}


def test_groups_are_the_same_for_the_same_module():
    first, second = (groups_of(Everything(), layer_decay=0.9) for _ in range(2))
    assert [g["names"] for g in first] == [g["names"] for g in second]


def test_biases_and_norms_do_not_decay_and_matrices_do():
    decay = by_name(groups_of(Everything(), weight_decay=0.3), "weight_decay")
    for name, value in decay.items():
        assert value == (0.0 if name.endswith("bias") or "norm" in name else 0.3), name


def test_a_no_decay_rule_may_name_parameters_or_their_shape():
    module = Everything()
    by_pattern = by_name(groups_of(module, no_decay=("*embeddings*",)), "weight_decay")
    assert by_pattern["networks.main.embeddings.weight"] == 0 < by_pattern["networks.main.layers.0.bias"]
    assert set(by_name(groups_of(module, no_decay=("ndim < 3",)), "weight_decay").values()) == {0.0}


def test_layer_decay_counts_down_from_the_top_of_each_encoder():
    scale = by_name(groups_of(Everything(), layer_decay=0.5), "lr_scale")
    assert scale["networks.main.embeddings.weight"] == 0.5**3
    assert scale["networks.main.layers.0.weight"] == 0.5**2
    assert scale["networks.main.layers.1.bias"] == 0.5
    assert scale["networks.main.final_norm.weight"] == 1
    assert scale["networks.generator.embeddings.weight"] == 0.5**2  # one layer less
    assert scale["criteria.masked_lm.layers.0.weight"] == 1  # a head, whatever it contains, is at the top


def test_depths_of_an_encoder_without_a_prefix():
    assert layer_depths(["token.weight", "layers.0.w", "layers.1.w", "pooler.weight"]) == {
        "token.weight": (0, 3), "layers.0.w": (1, 3), "layers.1.w": (2, 3), "pooler.weight": (3, 3),
    }


def test_depths_may_come_from_outside():
    groups = parameter_groups(
        Everything().named_parameters(), AdamW.Config(layer_decay=0.5), lambda name: 0 if "main" in name else None
    )
    assert by_name(groups, "lr_scale")["networks.main.final_norm.weight"] == 0.5
    assert by_name(groups, "lr_scale")["networks.generator.final_norm.weight"] == 1


def test_rates_per_network_multiply():
    scale = by_name(groups_of(Everything(), lr_scales={"networks.*": 0.5, "networks.generator.*": 0.5}), "lr_scale")
    assert scale["networks.generator.layers.0.weight"] == 0.25
    assert scale["networks.main.layers.0.weight"] == 0.5
    assert scale["criteria.masked_lm.layers.0.weight"] == 1


@pytest.mark.parametrize("settings, key", [
    ({"lr_scales": {"networks.generater.*": 0.5}}, "optimizer.lr_scales"),
    ({"no_decay": ("networks.generater.*",)}, "optimizer.no_decay"),
])
def test_a_pattern_that_matches_nothing_is_an_error_with_the_near_miss(settings, key):
    with pytest.raises(ConfigError, match=r"networks\.generater.*did you mean 'networks\.generator\.\*'") as error:
        groups_of(Everything(), **settings)
    assert error.value.key == key


def test_the_default_rules_may_match_nothing():
    assert len(parameter_groups([("weight", nn.Parameter(torch.zeros(2, 2)))], AdamW.Config())) == 1


@pytest.mark.parametrize("factory", [AdamW, SGD])
def test_the_learning_rate_reaches_every_group_by_its_scale(factory):
    config = factory.Config(lr=0.1, layer_decay=0.5)
    optimizer = factory.build(config, parameter_groups(Everything().named_parameters(), config), CPU)
    set_learning_rate(optimizer, 0.04)
    for group in optimizer.param_groups:
        assert group["lr"] == 0.04 * group["lr_scale"] and group["names"]


def test_adamw_is_fused_where_torch_has_a_kernel():
    optimizer = AdamW.build(AdamW.Config(), groups_of(Everything()), CPU)
    assert all(group["fused"] for group in optimizer.param_groups)


def test_adamw_falls_back_where_torch_has_no_kernel():
    groups = parameter_groups([("weight", nn.Parameter(torch.zeros(2, 2, device="meta")))], AdamW.Config())
    optimizer = AdamW.build(AdamW.Config(), groups, CPU)
    assert not optimizer.param_groups[0]["fused"] and optimizer.param_groups[0]["foreach"]


def test_adamw_is_the_published_update():
    config = AdamW.Config(lr=0.1, weight_decay=0.2, betas=(0.8, 0.9), eps=1e-6)
    w = torch.tensor([[1.0, -2.0]], dtype=torch.float64)
    parameter = nn.Parameter(w.clone())
    optimizer = AdamW.build(config, parameter_groups([("weight", parameter)], config), CPU)
    m, v = torch.zeros_like(w), torch.zeros_like(w)
    for step, g in enumerate((torch.tensor([[0.5, 1.0]]), torch.tensor([[-1.0, 2.0]])), start=1):
        g = g.double()
        parameter.grad = g
        optimizer.step()
        m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * g * g
        w = w - 0.1 * (m / (1 - 0.8**step) / ((v / (1 - 0.9**step)).sqrt() + 1e-6) + 0.2 * w)
    assert torch.allclose(parameter, w, rtol=1e-12, atol=0)  # float64 on both sides


def test_sgd_is_the_published_update():
    config = SGD.Config(lr=0.1, momentum=0.5, weight_decay=0.2)
    parameter = nn.Parameter(torch.tensor([[1.0]], dtype=torch.float64))
    optimizer = SGD.build(config, parameter_groups([("weight", parameter)], config), CPU)
    w, velocity = 1.0, 0.0
    for g in (0.5, -1.0):
        parameter.grad = torch.tensor([[g]], dtype=torch.float64)
        optimizer.step()
        velocity = 0.5 * velocity + g + 0.2 * w
        w -= 0.1 * velocity
    assert math.isclose(parameter.item(), w, rel_tol=1e-12)


@pytest.mark.parametrize("factory", [AdamW, SGD])
def test_a_parameter_without_gradient_is_not_stepped(factory):
    used, unused = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
    config = factory.Config(weight_decay=0.5)
    optimizer = factory.build(config, parameter_groups([("a", used), ("b", unused)], config), CPU)
    used.grad = torch.ones(2, 2)
    optimizer.step()
    assert not torch.equal(used, torch.ones(2, 2)) and torch.equal(unused, torch.ones(2, 2))


def test_wrong_values_name_their_key():
    with pytest.raises(ConfigError, match=r"optimizer\.betas"):
        AdamW.Config(betas=(0.9, 1.0))
    with pytest.raises(ConfigError, match=r"optimizer\.nesterov"):
        SGD.Config(nesterov=True, momentum=0.0)
