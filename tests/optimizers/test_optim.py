import json
import math
import sys
import types

import numpy as np
import pytest
import torch
from torch import nn

from fwk import testing
from fwk.components.discovery import load_plugins
from fwk.components.registry import registry
from fwk.contracts.optimizer import set_learning_rate
from fwk.engine.parameter_groups import layer_depths, owners, parameter_groups
from fwk.engine.saving import optimizer_state
from fwk.errors import CheckpointError, ConfigError
from fwk.optimizers.adamw import AdamW
from fwk.optimizers.lamb import trust_ratios
from fwk.optimizers.sgd import SGD

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
        self.criteria = nn.ModuleDict(
            {"masked_lm": nn.ModuleDict({"layers": nn.ModuleList([nn.Linear(4, 5)])})}
        )


def by_name(groups, key):
    return {name: group[key] for group in groups for name in group["names"]}


def groups_of(module, **settings):
    return parameter_groups(module.named_parameters(), AdamW.Config(**settings))


def test_every_parameter_is_in_exactly_one_group_beside_its_name():
    module = Everything()
    groups = groups_of(module, layer_decay=0.5, lr_scales={"networks.generator.*": 0.1})
    pairs = [pair for group in groups for pair in zip(group["names"], group["params"], strict=True)]
    assert len(pairs) == len(list(module.parameters()))
    assert {name: id(p) for name, p in pairs} == {
        name: id(p) for name, p in module.named_parameters()
    }


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
    assert (
        by_pattern["networks.main.embeddings.weight"]
        == 0
        < by_pattern["networks.main.layers.0.bias"]
    )
    assert set(by_name(groups_of(module, no_decay=("ndim < 3",)), "weight_decay").values()) == {0.0}


def test_layer_decay_counts_down_from_the_top_of_each_encoder():
    scale = by_name(groups_of(Everything(), layer_decay=0.5), "lr_scale")
    assert scale["networks.main.embeddings.weight"] == 0.5**3
    assert scale["networks.main.layers.0.weight"] == 0.5**2
    assert scale["networks.main.layers.1.bias"] == 0.5
    assert scale["networks.main.final_norm.weight"] == 1
    assert scale["networks.generator.embeddings.weight"] == 0.5**2  # one layer less
    assert (
        scale["criteria.masked_lm.layers.0.weight"] == 1
    )  # a head, whatever it contains, is at the top


def test_depths_of_an_encoder_without_a_prefix():
    assert layer_depths(["token.weight", "layers.0.w", "layers.1.w", "pooler.weight"]) == {
        "token.weight": (0, 3),
        "layers.0.w": (1, 3),
        "layers.1.w": (2, 3),
        "pooler.weight": (3, 3),
    }


@pytest.mark.parametrize(
    ("below", "layers", "above"),
    [
        ("embeddings.word_embeddings", "encoder.layer.{}.output.dense", "pooler.dense"),  # BERT
        ("encoder.rel_embeddings", "encoder.layer.{}.attention.self.query_proj", None),  # DeBERTa
        ("embeddings.word_embeddings", "transformer.layer.{}.ffn.lin1", None),  # DistilBERT
        ("embeddings.tok_embeddings", "layers.{}.mlp.Wi", "final_norm"),  # ModernBERT
        ("word_embedding", "layer.{}.rel_attn", None),  # XLNet
        ("wte", "h.{}.mlp.c_fc", "ln_f"),  # GPT-2
    ],
)
def test_depths_of_the_encoders_of_transformers(below, layers, above):
    prefix = "networks.main.model"
    names = [below, layers.format(0), layers.format(1), *([above] if above else [])]
    depths = layer_depths([f"{prefix}.{name}" for name in names])
    expected = [(0, 3), (1, 3), (2, 3), *([(3, 3)] if above else [])]
    assert depths == {f"{prefix}.{name}": depth for name, depth in zip(names, expected)}


def test_layers_that_share_their_weights_are_one_layer():
    inner = "encoder.albert_layer_groups.0.albert_layers.0.ffn"
    depths = layer_depths(
        [
            f"model.{name}"
            for name in ("embeddings.w", "encoder.embedding_hidden_mapping_in.w", inner)
        ]
    )
    assert list(depths.values()) == [(0, 2), (0, 2), (1, 2)]


def test_depths_may_come_from_outside():
    groups = parameter_groups(
        Everything().named_parameters(),
        AdamW.Config(layer_decay=0.5),
        lambda name: 0 if "main" in name else None,
    )
    assert by_name(groups, "lr_scale")["networks.main.final_norm.weight"] == 0.5
    assert by_name(groups, "lr_scale")["networks.generator.final_norm.weight"] == 1


def test_rates_per_network_multiply():
    scale = by_name(
        groups_of(Everything(), lr_scales={"networks.*": 0.5, "networks.generator.*": 0.5}),
        "lr_scale",
    )
    assert scale["networks.generator.layers.0.weight"] == 0.25
    assert scale["networks.main.layers.0.weight"] == 0.5
    assert scale["criteria.masked_lm.layers.0.weight"] == 1


@pytest.mark.parametrize(
    "settings, key",
    [
        ({"lr_scales": {"networks.generater.*": 0.5}}, "optimizer.lr_scales"),
        ({"no_decay": ("networks.generater.*",)}, "optimizer.no_decay"),
    ],
)
def test_a_pattern_that_matches_nothing_is_an_error_with_the_near_miss(settings, key):
    with pytest.raises(
        ConfigError, match=r"networks\.generater.*Did you mean 'networks\.generator\.\*'"
    ) as error:
        groups_of(Everything(), **settings)
    assert error.value.key == key


def test_the_default_rules_may_match_nothing():
    assert len(parameter_groups([("weight", nn.Parameter(torch.zeros(2, 2)))], AdamW.Config())) == 1


@pytest.mark.parametrize("factory", [AdamW, SGD])
def test_the_learning_rate_reaches_every_group_by_its_scale(factory):
    config = factory.Config(lr=0.1, layer_decay=0.5)
    optimizer = factory.build(
        config, parameter_groups(Everything().named_parameters(), config), CPU
    )
    set_learning_rate(optimizer, 0.04)
    for group in optimizer.param_groups:
        assert group["lr"] == 0.04 * group["lr_scale"] and group["names"]


@pytest.mark.parametrize(
    "name, settings",
    [
        ("adamw", {}),
        ("sgd", {}),
        ("sgd", {"momentum": 0.0}),
        ("sgd", {"nesterov": True}),
        ("lamb", {}),
        ("muon", {}),
        ("adafactor", {}),
        ("radam", {}),
    ],
)
def test_a_parameter_may_take_its_first_step_later_than_others(name, settings):
    load_plugins()
    factory, module = registry.get("optimizer", name).cls, Everything()
    config = factory.Config(lr=0.1, **settings)
    optimizer = factory.build(config, parameter_groups(module.named_parameters(), config), CPU)
    late = [p for name, p in module.named_parameters() if name.startswith("criteria")]
    for step in range(3):
        before = [p.detach().clone() for p in late]
        for p in module.parameters():
            p.grad = None if step == 0 and any(p is other for other in late) else torch.ones_like(p)
        optimizer.step()
        assert all(torch.equal(p, old) == (step == 0) for p, old in zip(late, before))


def test_adamw_is_fused_where_torch_has_a_kernel():
    optimizer = AdamW.build(AdamW.Config(), groups_of(Everything()), CPU)
    assert all(group["fused"] for group in optimizer.param_groups)


def test_adamw_falls_back_where_torch_has_no_kernel():
    groups = parameter_groups(
        [("weight", nn.Parameter(torch.zeros(2, 2, device="meta")))], AdamW.Config()
    )
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


# -- every optimizer -------------------------------------------------------------------------------------------------


MUON = hasattr(torch.optim, "Muon")  # came with torch 2.9
OPTIMIZERS = {
    name: registry.get("optimizer", name).cls
    for name in ("adamw", "sgd", "lamb", "adafactor", "radam", *["muon"] * MUON)
}
NEEDS_MUON = pytest.mark.skipif(not MUON, reason="this torch has no Muon")
EVERY = pytest.mark.parametrize("name", OPTIMIZERS)


def built(name, module, **settings):
    """An optimizer over a module's parameters as the trainer builds it, ready to be packed."""
    factory = OPTIMIZERS.get(name) or registry.get("optimizer", name).cls
    config = factory.Config(**settings)
    held = owners(module)
    groups = parameter_groups(
        module.named_parameters(), config, kind_of=lambda n, p: factory.kind(config, n, p, held[n])
    )
    optimizer = factory.build(config, groups, CPU)
    optimizer_state.remember_initial_settings(optimizer)
    return optimizer


def doubles(layers=2):
    torch.manual_seed(0)
    return Everything().double()


def random_gradients(module, seed, without=()):
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(
            parameter.dtype
        )
        parameter.grad = None if name in without else drawn * 10 ** (seed % 3 - 1)


def test_every_registered_optimizer_is_among_these():
    load_plugins()
    first_party = {
        e.name
        for e in registry.entries("optimizer")
        if e.module.startswith(("fwk.", "fwk_plugins."))
    }
    assert first_party == {*OPTIMIZERS, "muon"}


def adamw_by_hand(config, t, w, g, kept, lr, decay, kind):
    b1, b2 = config.betas
    kept["m"] = b1 * kept.get("m", 0) + (1 - b1) * g
    kept["v"] = b2 * kept.get("v", 0) + (1 - b2) * g**2
    step = kept["m"] / (1 - b1**t) / (np.sqrt(kept["v"] / (1 - b2**t)) + config.eps)
    return w - lr * (step + decay * w)


def radam_by_hand(config, t, w, g, kept, lr, decay, kind):
    b1, b2 = config.betas
    kept["m"] = b1 * kept.get("m", 0) + (1 - b1) * g
    kept["v"] = b2 * kept.get("v", 0) + (1 - b2) * g**2
    full = 2 / (1 - b2) - 1
    known = full - 2 * t * b2**t / (1 - b2**t)
    step = kept["m"] / (1 - b1**t)
    if known > 5:
        rectified = math.sqrt((known - 4) * (known - 2) * full / ((full - 4) * (full - 2) * known))
        step = step * rectified * math.sqrt(1 - b2**t) / (np.sqrt(kept["v"]) + config.eps)
    return w * (1 - lr * decay) - lr * step


def lamb_by_hand(config, t, w, g, kept, lr, decay, kind):
    b1, b2 = config.betas
    kept["m"] = b1 * kept.get("m", 0) + (1 - b1) * g
    kept["v"] = b2 * kept.get("v", 0) + (1 - b2) * g**2
    c1, c2 = (1 - b1**t, 1 - b2**t) if config.bias_correction else (1, 1)
    step = kept["m"] / c1 / (np.sqrt(kept["v"] / c2) + config.eps) + decay * w
    big, small = math.sqrt((w**2).sum()), math.sqrt((step**2).sum())
    ratio = min(big / small, config.largest_ratio or math.inf) if kind == "adapted" else 1.0
    return w - lr * ratio * step


def adafactor_by_hand(config, t, w, g, kept, lr, decay, kind):
    share = t**-config.decay_rate
    size = max(config.floor, math.sqrt((w**2).mean()))
    tiny = np.finfo(np.float64).eps
    if g.ndim > 1:
        kept["rows"] = (1 - share) * kept.get("rows", 0) + share * (g**2).mean(-1, keepdims=True)
        kept["columns"] = (1 - share) * kept.get("columns", 0) + share * (g**2).mean(
            -2, keepdims=True
        )
        v = kept["rows"] * kept["columns"] / max(tiny, kept["rows"].mean())
    else:
        v = kept["v"] = (1 - share) * kept.get("v", 0) + share * g**2
    step = g / np.maximum(np.sqrt(v), tiny)
    step = step / max(1, math.sqrt((step**2).mean()) / config.clip_rms)
    return w * (1 - lr * decay) - size * min(lr, 1 / math.sqrt(t)) * step


def muon_by_hand(config, t, w, g, kept, lr, decay, kind):
    if kind == "adamw":
        return adamw_by_hand(config, t, w, g, kept, lr, decay, kind)
    kept["b"] = config.momentum * kept.get("b", 0) + (1 - config.momentum) * g
    x = config.momentum * kept["b"] + (1 - config.momentum) * g if config.nesterov else kept["b"]
    x = x / np.sqrt((x**2).sum())
    a, b, c = 3.4445, -4.7750, 2.0315
    for _ in range(config.iterations):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    rows, columns = w.shape
    size = (
        0.2 * math.sqrt(max(rows, columns))
        if config.size == "match_rms_adamw"
        else math.sqrt(max(1, rows / columns))
    )
    return w * (1 - lr * decay) - lr * size * x


REFERENCES = [
    ("adamw", adamw_by_hand, {"betas": (0.8, 0.95)}),
    ("radam", radam_by_hand, {"betas": (0.9, 0.99)}),
    ("lamb", lamb_by_hand, {}),
    ("lamb", lamb_by_hand, {"bias_correction": False, "largest_ratio": 0.0}),
    ("lamb", lamb_by_hand, {"largest_ratio": 0.3}),
    ("lamb", lamb_by_hand, {"weight_decay": 0.0}),
    ("adafactor", adafactor_by_hand, {}),
    ("adafactor", adafactor_by_hand, {"lr": 0.4, "decay_rate": 0.5, "clip_rms": 1.1}),
    pytest.param("muon", muon_by_hand, {}, marks=NEEDS_MUON),
    pytest.param(
        "muon",
        muon_by_hand,
        {"size": "original", "nesterov": False, "iterations": 3, "adamw_lr": 0.1},
        marks=NEEDS_MUON,
    ),
]


@pytest.mark.parametrize(
    "name, by_hand, settings", REFERENCES, ids=lambda x: x if isinstance(x, str) else ""
)
def test_eight_steps_equal_the_published_equations(name, by_hand, settings):
    """Decay groups, layer-wise rates, rates by pattern and a schedule; one parameter is without gradient now
    and then."""
    module = doubles()
    optimizer = built(
        name,
        module,
        **{"weight_decay": 0.1, "layer_decay": 0.7, **settings},
        lr_scales={"networks.generator.*": 0.5},
    )
    config = OPTIMIZERS[name].Config(**{"weight_decay": 0.1, **settings})
    groups = {n: group for group in optimizer.param_groups for n in group["names"]}
    ours = {n: p.detach().numpy().copy() for n, p in module.named_parameters()}
    kept, count = {n: {} for n in ours}, dict.fromkeys(ours, 0)
    rare = "networks.main.layers.1.weight"
    for update in range(1, 9):
        random_gradients(module, update, without=(rare,) if update in (1, 4) else ())
        gradients = {
            n: p.grad.numpy().copy() for n, p in module.named_parameters() if p.grad is not None
        }
        rate = config.lr * (1 - update / 10)
        set_learning_rate(optimizer, rate)
        optimizer.step()
        for n, g in gradients.items():
            count[n] += 1
            ours[n] = by_hand(
                config,
                count[n],
                ours[n],
                g,
                kept[n],
                rate * groups[n]["lr_scale"],
                groups[n]["weight_decay"],
                groups[n]["kind"],
            )
    assert len({group["lr_scale"] for group in optimizer.param_groups}) > 3
    for n, p in module.named_parameters():
        # Muon's iteration runs in bfloat16 (8 bits); the rest is float64 on both sides, in another order of operations
        tolerance = 2e-2 if groups[n]["kind"] == "muon" else 1e-9
        moved = np.abs(ours[n]).max()
        np.testing.assert_allclose(
            p.detach().numpy(), ours[n], rtol=0, atol=tolerance * moved, err_msg=n
        )


@EVERY
def test_no_optimizer_steps_what_has_no_gradient(name):
    module = doubles()
    optimizer = built(name, module, weight_decay=0.5)
    random_gradients(module, 1)
    optimizer.step()
    idle = (
        "networks.main.layers.0.weight",
        "networks.main.layers.0.bias",
        "networks.main.embeddings.weight",
    )
    parameters = dict(module.named_parameters())
    before = {n: p.detach().clone() for n, p in parameters.items()}
    kept = {
        n: {
            k: v.clone()
            for k, v in optimizer.state[parameters[n]].items()
            if isinstance(v, torch.Tensor)
        }
        for n in idle
    }
    random_gradients(module, 2, without=idle)
    optimizer.step()
    for n, p in parameters.items():
        assert torch.equal(p, before[n]) == (n in idle), n
    for n in idle:
        assert all(
            torch.equal(optimizer.state[parameters[n]][key], value)
            for key, value in kept[n].items()
        )


@EVERY
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_and_moments_keep_their_type(name, dtype):
    module = doubles().to(dtype)
    optimizer = built(name, module)
    random_gradients(module, 1)
    optimizer.step()
    assert all(p.dtype == dtype for p in module.parameters())
    kept = [
        v
        for p in module.parameters()
        for k, v in optimizer.state[p].items()
        if isinstance(v, torch.Tensor) and k != "step"
    ]
    assert kept and all(value.dtype == dtype for value in kept)


@EVERY
def test_what_is_packed_goes_on_bit_identically(name):
    straight, other = doubles(), doubles()
    a, b = (built(name, module, weight_decay=0.1) for module in (straight, other))
    for update in range(1, 4):
        for module, optimizer in ((straight, a), (other, b)):
            random_gradients(module, update)
            optimizer.step()
    tensors, numbers = optimizer_state.pack_optimizer(b)
    tensors = {n: v.clone() for n, v in tensors.items()}
    b = built(name, other, weight_decay=0.1)
    optimizer_state.unpack_optimizer(b, tensors, json.loads(json.dumps(numbers)))
    for update in range(4, 7):
        for module, optimizer in ((straight, a), (other, b)):
            random_gradients(module, update)
            optimizer.step()
    assert all(torch.equal(x, y) for x, y in zip(straight.parameters(), other.parameters()))


@EVERY
def test_the_groups_of_a_first_party_optimizer_are_as_they_were_built(name):
    """So that nothing of the config or of the device's kernels is saved as state."""
    module = doubles()
    optimizer = built(name, module)
    random_gradients(module, 1)
    optimizer.step()
    tensors, numbers = optimizer_state.pack_optimizer(optimizer)
    assert not [path for path in (*tensors, *numbers) if "::group." in path]


# -- what optimizers keep in their groups ----------------------------------------------------------------------------


KEEPS_IN_GROUP = '''
import torch
from fwk.contracts.optimizer import OptimizerConfig, OptimizerFactory
from fwk.components.registry import register


@register("optimizer", "test_averaging")
class Averaging(OptimizerFactory):
    """Steps that depend on a count, a sum of weights, a flag and a tensor, all kept in the group."""

    Config = OptimizerConfig

    @classmethod
    def build(cls, config, groups, device):
        kept = {"k": 0, "weight_sum": 0.0, "begun": False, "spread": torch.ones(())}
        return Optimizer(groups, {**kept, "betas": (0.9, 0.99)})


class Optimizer(torch.optim.Optimizer):
    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            group["k"] += 1
            group["begun"] = True
            group["weight_sum"] += group["lr"] ** 2
            group["newest"] = group["lr"] / (1 + group["weight_sum"])
            group["spread"] = group["spread"] * 1.25
            for p in group["params"]:
                if p.grad is not None:
                    p.sub_(p.grad, alpha=group["newest"] / group["k"] * float(group["spread"]))
'''


@pytest.fixture
def averaging(tmp_path):
    (tmp_path / "averaging.py").write_text(KEEPS_IN_GROUP)
    load_plugins((str(tmp_path),))
    return str(tmp_path)


def test_a_run_whose_optimizer_keeps_numbers_in_its_groups_resumes_bit_identically(averaging):
    config = testing.tiny_config(
        {"criterion": "masked_lm", "optimizer": {"name": "test_averaging", "lr": 0.1}}, [averaging]
    )
    assert testing.rule_resume(config) == ""


def test_what_an_optimizer_keeps_in_its_groups_is_saved_and_comes_back(averaging):
    module = doubles()
    optimizer = built("test_averaging", module)
    random_gradients(module, 1)
    optimizer.step()
    tensors, numbers = optimizer_state.pack_optimizer(optimizer)
    name = "networks.main.layers.0.bias"
    assert {p.split("::group.")[1] for p in numbers} == {"k", "weight_sum", "begun", "newest"}
    assert numbers[f"{name}::group.k"] == 1 and tensors[f"{name}::group.spread"] == 1.25
    fresh = built("test_averaging", module)
    optimizer_state.unpack_optimizer(fresh, tensors, numbers)
    for old, new in zip(optimizer.param_groups, fresh.param_groups, strict=True):
        assert {k: v for k, v in new.items() if k != "built"} == {
            k: v for k, v in old.items() if k != "built"
        }


def test_what_is_kept_in_groups_survives_a_phase_that_groups_otherwise(averaging):
    from fwk import Phase

    config = testing.tiny_config(
        {"criterion": "masked_lm", "optimizer": {"name": "test_averaging"}}, [averaging]
    )
    with testing.trainer_of(config) as trainer:
        trainer.step(next(testing.batches_of(trainer.run, 0)))
        trainer.enter_phase(Phase(name="heads only", frozen=("networks.*",)))
        assert {group["k"] for group in trainer.run.optimizer.param_groups} == {1}
        trainer.enter_phase(Phase(name="anew", reset_optimizer=True))
        assert {group["k"] for group in trainer.run.optimizer.param_groups} == {0}


def test_what_cannot_be_saved_of_a_group_is_refused_by_name(averaging):
    optimizer = built("test_averaging", doubles())
    optimizer.param_groups[0]["history"] = [1, 2]
    with pytest.raises(CheckpointError, match=r"Optimizer keeps a list as 'group\.history'"):
        optimizer_state.pack_optimizer(optimizer)


# -- LAMB ------------------------------------------------------------------------------------------------------------


def test_lamb_adapts_what_decays_by_rule_even_when_nothing_decays():
    for decay in (0.0, 0.1):
        kinds = by_name(built("lamb", doubles(), weight_decay=decay).param_groups, "kind")
        assert {n for n, kind in kinds.items() if kind == "spared"} == {
            n for n in kinds if n.endswith("bias") or "norm" in n
        }


def test_the_trust_ratio_of_nothing_is_one():
    zero, one = torch.zeros(3), torch.ones(3)
    assert [float(r) for r in trust_ratios([zero, one, one], [one, zero, one], 0.0)] == [1, 1, 1]
    assert (
        float(trust_ratios([100 * one], [one], 10.0)[0]) == 10
        and float(trust_ratios([100 * one], [one], 0.0)[0]) == 100
    )


def test_lambs_step_is_in_proportion_to_the_matrix_whatever_the_gradient_is():
    def step(size, slope):
        module = nn.Linear(4, 4, bias=False).double()
        nn.init.constant_(module.weight, size)
        optimizer = built("lamb", module, lr=0.1, weight_decay=0.0)
        module.weight.grad = torch.full((4, 4), slope, dtype=torch.float64)
        optimizer.step()
        return float((module.weight.detach() - size).abs().max())

    assert step(0.5, 1.0) == pytest.approx(0.05, rel=1e-12) == step(0.5, 1000.0)
    assert step(2.0, 1.0) == pytest.approx(0.2, rel=1e-12)


# -- Muon ------------------------------------------------------------------------------------------------------------


class Tied(nn.Module):
    """Every trap on Muon's way: an embedding called like a layer, one tied to an output, matrices that are no
    layers."""

    def __init__(self):
        super().__init__()
        self.networks = nn.ModuleDict({"main": nn.Module()})
        main = self.networks["main"]
        main.embeddings = nn.Module()
        main.embeddings.token = nn.Embedding(6, 4)
        main.embeddings.project = nn.Linear(4, 4)
        main.relative = nn.Module()
        main.relative.table = nn.Parameter(torch.zeros(2, 5))
        main.layers = nn.ModuleList(
            [
                nn.ModuleDict(
                    {
                        "tied": nn.Linear(4, 6),
                        "rotary": nn.Embedding(3, 4),
                        "inner": nn.Linear(4, 4),
                        "kernel": nn.Conv1d(4, 4, 3),
                    }
                )
            ]
        )
        main.layers[0]["tied"].weight = main.embeddings.token.weight
        main.layers[0]["output"] = nn.Linear(4, 6, bias=False)
        main.layers[0]["bag"] = nn.EmbeddingBag(6, 4)
        main.layers[0]["bag"].weight = main.layers[0][
            "output"
        ].weight  # first held by a linear layer
        self.criteria = nn.ModuleDict({"masked_lm": nn.ModuleDict({"head": nn.Linear(4, 4)})})


@NEEDS_MUON
def test_muon_steps_hidden_matrices_and_never_an_embedding():
    kinds = by_name(built("muon", Tied()).param_groups, "kind")
    assert {n for n, kind in kinds.items() if kind == "muon"} == {
        "networks.main.layers.0.inner.weight"
    }


@NEEDS_MUON
def test_muon_of_the_built_in_encoder_takes_the_four_matrices_of_each_layer():
    config = testing.tiny_config({"criterion": "masked_lm", "optimizer": {"name": "muon"}})
    with testing.trainer_of(config) as trainer:
        kinds = by_name(trainer.run.optimizer.param_groups, "kind")
        assert {n for n, kind in kinds.items() if kind == "muon"} == {
            f"networks.main.layers.{i}.{part}.weight"
            for i in range(2)
            for part in ("query_key_value", "attention_output", "inner", "output")
        }
        assert (
            kinds["networks.main.embeddings.token.weight"]
            == kinds["networks.main.relative.table"]
            == "adamw"
        )
        trainer.step(next(testing.batches_of(trainer.run)))
        state = trainer.run.optimizer.state
        for n, p in trainer.run.named_trainable():
            assert set(state[p]) == (
                {"momentum_buffer"} if kinds[n] == "muon" else {"step", "exp_avg", "exp_avg_sq"}
            )


@NEEDS_MUON
def test_muons_step_is_orthogonal_and_as_large_as_adamws():
    module = Tied().double()
    optimizer = built("muon", module, lr=0.1, weight_decay=0.0, iterations=8)
    weight = module.networks["main"].layers[0]["inner"].weight
    before = weight.detach().clone()
    random_gradients(module, 1)
    optimizer.step()
    step = (before - weight.detach()) / 0.1 / (0.2 * 2)  # size: 0.2·√4
    values = torch.linalg.svdvals(step)
    assert (
        float(values.min()) > 0.5 and float(values.max()) < 1.3
    )  # the quintic aims between 0.7 and 1.2, in bfloat16


def test_without_torchs_muon_the_error_says_which_torch_has_it(monkeypatch):
    monkeypatch.delattr(torch.optim, "Muon", raising=False)
    with pytest.raises(
        ConfigError,
        match=r"optimizer: 'muon' is torch\.optim\.Muon, which came with torch 2\.9, and this is torch",
    ):
        registry.get("optimizer", "muon").cls.Config()


@NEEDS_MUON
def test_muons_patterns_must_match_and_may_match_nothing_by_default():
    with pytest.raises(
        ConfigError,
        match=r"optimizer\.hidden: 'networks\.main\.layer\.\*' matches no parameter.*layers",
    ):
        built("muon", Tied(), hidden=("networks.main.layer.*",))
    plain = nn.Linear(2, 2)
    optimizer = built("muon", plain)
    random_gradients(plain, 1)
    optimizer.step()
    assert {group["kind"] for group in optimizer.param_groups} == {"adamw"}


@NEEDS_MUON
def test_muon_may_be_all_there_is():
    module = nn.Linear(2, 2, bias=False)
    optimizer = built("muon", module, hidden=("*",))
    before = module.weight.detach().clone()
    random_gradients(module, 1)
    optimizer.step()
    assert not torch.equal(before, module.weight)


@NEEDS_MUON
def test_several_optimizers_together_load_a_state_dict():
    module = doubles()
    optimizer, again = built("muon", module), built("muon", module)
    random_gradients(module, 1)
    optimizer.step()
    again.load_state_dict(optimizer.state_dict())
    again.step()
    assert set(again.state) == set(module.parameters())
    assert all(
        len(part.state) == len(module_state)
        for part, module_state in zip(again.parts, [again.state] * 2)
    )


# -- NVIDIA apex -----------------------------------------------------------------------------------------------------


class Fused(torch.optim.SGD):
    """Stands for apex's: keeps what it was given."""

    def __init__(self, groups, **settings):
        self.given = settings
        self.param_groups = groups


APEX = pytest.mark.parametrize(
    "name, cls, settings",
    [("adamw", "FusedAdam", {}), ("lamb", "FusedLAMB", {"largest_ratio": 0.0})],
)


@pytest.fixture
def apex(monkeypatch):
    """Puts a fake apex with these submodules in the place of any other."""

    def put(**parts):
        for name in [n for n in sys.modules if n.split(".")[0] == "apex"]:
            monkeypatch.delitem(sys.modules, name)
        package = types.ModuleType("apex")
        package.__path__ = []
        monkeypatch.setitem(sys.modules, "apex", package)
        for name, content in parts.items():
            module = types.ModuleType(f"apex.{name}")
            vars(module).update(content)
            monkeypatch.setitem(sys.modules, f"apex.{name}", module)

    return put


def on_gpu(dtype=torch.float32):
    """Groups that say they lie on a GPU; nothing here steps them."""
    parameter = types.SimpleNamespace(device=torch.device("cuda"), dtype=dtype)
    return [
        {
            "params": [parameter],
            "names": ["weight"],
            "kind": "",
            "lr": 1.0,
            "lr_scale": 1.0,
            "weight_decay": 0.0,
        }
    ]


@APEX
def test_apex_is_given_the_same_settings_and_no_clipping_of_its_own(apex, name, cls, settings):
    apex(normalization={}, optimizers={"FusedAdam": Fused, "FusedLAMB": Fused})
    config = OPTIMIZERS[name].Config(
        implementation="apex", lr=0.5, eps=1e-7, betas=(0.8, 0.9), **settings
    )
    given = OPTIMIZERS[name].build(config, on_gpu(), torch.device("cuda")).given
    assert (given["lr"], given["eps"], given["betas"], given["adam_w_mode"]) == (
        0.5,
        1e-7,
        (0.8, 0.9),
        True,
    )
    assert given.get("max_grad_norm", math.inf) == math.inf


@APEX
def test_a_package_apex_of_another_origin_is_told_apart(apex, name, cls, settings):
    apex(optimizers={cls: Fused})  # has everything but `apex.normalization`
    config = OPTIMIZERS[name].Config(implementation="apex", **settings)
    with pytest.raises(
        ConfigError,
        match=r"optimizer\.implementation: needs NVIDIA apex.*public index is unrelated.*use '",
    ):
        OPTIMIZERS[name].build(config, on_gpu(), torch.device("cuda"))


@APEX
def test_without_apex_the_error_says_where_it_comes_from(monkeypatch, name, cls, settings):
    monkeypatch.setitem(sys.modules, "apex", None)  # makes the import fail
    config = OPTIMIZERS[name].Config(implementation="apex", **settings)
    with pytest.raises(
        ConfigError, match=r"optimizer\.implementation: .*not installed.*github\.com/NVIDIA/apex"
    ):
        OPTIMIZERS[name].build(config, on_gpu(), torch.device("cuda"))


@APEX
def test_apex_needs_a_cuda_device_a_kernel_and_its_extensions(apex, name, cls, settings):
    def broken(groups, **settings):
        raise RuntimeError(f"apex.optimizers.{cls} requires cuda extensions")

    apex(normalization={}, optimizers={cls: broken})
    config = OPTIMIZERS[name].Config(implementation="apex", **settings)
    build, gpu = OPTIMIZERS[name].build, torch.device("cuda")
    with pytest.raises(
        ConfigError,
        match=rf"optimizer\.implementation: apex's {cls} has CUDA kernels.*none for train\.device=cpu",
    ):
        build(config, groups_of(Everything()), CPU)
    with pytest.raises(ConfigError, match=r"none for float64"):
        build(config, on_gpu(torch.float64), gpu)
    with pytest.raises(
        ConfigError, match=rf"apex's {cls} cannot be used \(.*requires cuda extensions\)"
    ):
        build(config, on_gpu(), gpu)


@NEEDS_MUON
def test_apexs_lamb_has_no_bound_on_its_ratio():
    with pytest.raises(ConfigError, match=r"optimizer\.largest_ratio: .*set this to 0"):
        OPTIMIZERS["lamb"].Config(implementation="apex")


def test_the_default_rate_is_advised_against_for_wide_encoders_and_only_then():
    advice = AdamW.advice(AdamW.Config(), 768)
    assert "suits encoders up to 128 wide. This encoder is 768 wide" in advice
    assert "optimizer.lr=0.0005 is" in advice
    assert AdamW.advice(AdamW.Config(), 128) is None
    assert AdamW.advice(AdamW.Config(lr=1e-4), 768) is None
    assert SGD.advice(SGD.Config(), 768) is None
