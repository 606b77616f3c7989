"""train.activation_checkpointing: the same gradients to the bit, and less memory kept for the backward pass."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from support.cases import CASES, LSTM, config_of
from support.commands import torchrun
from support.paths import RANKS

from fwk import testing
from fwk.engine.speed import compiling
from fwk.engine.speed.recompute import Recomputed
from fwk.engine.update import Update
from fwk.errors import ConfigError
from fwk.testing import batches_of, merge_settings, tiny_config, train_briefly, trainer_of

AGAIN = {"train": {"activation_checkpointing": True}}
DROPOUT = {"model": {"dropout": 0.1, "attention_dropout": 0.1}}
TEXT = [name for name in CASES if name != "batch that is not text"]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", TEXT)
@pytest.mark.mostly_slow(
    "masked_lm-fp32",
    "masked_lm-bf16",
    "several objectives at once-fp32",
    "several objectives at once-bf16",
    "contrast over the whole update-fp32",
    "contrast over the whole update-bf16",
    "cvt_tagging-fp32",
    "cvt_tagging-bf16",
)
def test_gradients_are_the_same_to_the_bit_with_dropout(name, precision):
    dropout = {"model": {"dropout": 0.1}} if name in LSTM else DROPOUT
    changes = merge_settings(dropout, {"train": {"precision": precision, "micro_batch": 5}})
    without, again = (
        testing.gradients(config_of(name, merge_settings(changes, more))) for more in ({}, AGAIN)
    )
    assert without.keys() == again.keys()
    for path in without:
        assert (without[path] is None) == (again[path] is None)
        assert without[path] is None or torch.equal(without[path], again[path]), path


def kept_bytes(config) -> int:
    """Return the bytes that the forward pass of one update keeps for the backward pass, without parameters and their
    casts."""
    with trainer_of(config) as trainer:
        run = trainer.run
        sizes: dict[int, int] = {}
        parameter_pointers = {p.untyped_storage().data_ptr() for p in run.module.parameters()}
        alive = []

        def pack(tensor):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in parameter_pointers:
                sizes[storage.data_ptr()] = storage.nbytes()
                alive.append(storage)  # so that no address is used twice
            return tensor

        micros = testing.begin_update(trainer, next(batches_of(run)), Update(number=1))
        with (
            torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
            run.precision.autocast(),
        ):
            encoded = run.module.encoding.encode([micros[0].views["masked"]])
        assert encoded[0].features.requires_grad
        return sum(sizes.values())


def test_what_is_kept_grows_by_one_tensor_per_layer():
    def config(layers: int, more: dict):
        model = {
            "layers": layers,
            "width": 32,
            "heads": 4,
            "dropout": 0.1,
            "attention_dropout": 0.1,
        }
        return tiny_config(
            merge_settings(
                {"model": model, "criterion": {"masked_lm": {}}, "train": {"precision": "fp32"}},
                more,
            )
        )

    features = 12 * 16 * 32 * 4  # bytes of [B, T, D] in fp32
    without = [kept_bytes(config(layers, {})) for layers in (4, 8)]
    again = [kept_bytes(config(layers, AGAIN)) for layers in (4, 8)]
    # a layer keeps its input, or with it queries, keys, values, two widths of 4 D, norms and dropout masks
    assert (without[1] - without[0]) / 4 > 12 * features
    assert (again[1] - again[0]) / 4 <= features
    assert again[1] < without[1] / 5


def test_layers_run_again_once_and_only_with_gradient():
    with trainer_of(config_of("masked_lm", AGAIN)) as trainer:
        calls = {"layers": 0, "embeddings": 0}
        main = trainer.run.module.networks["main"]
        main.layers[0].inner.register_forward_hook(
            lambda *a: calls.update(layers=calls["layers"] + 1)
        )
        main.embeddings.register_forward_hook(
            lambda *a: calls.update(embeddings=calls["embeddings"] + 1)
        )
        testing.differentiate_once(trainer)
        assert calls == {"layers": 2, "embeddings": 1}
        with torch.no_grad():
            main({"tokens": torch.ones(2, 5, dtype=torch.int64)}, None)
        assert calls == {"layers": 3, "embeddings": 2}


def test_a_layer_keeps_its_names_its_class_and_can_be_copied():
    with (
        trainer_of(config_of("generator with tied embeddings")) as plain,
        trainer_of(config_of("generator with tied embeddings", AGAIN)) as again,
    ):
        assert list(plain.run.module.state_dict()) == list(again.run.module.state_dict())
        layer = again.run.module.networks["main"].layers[0]
        assert isinstance(layer, Recomputed) and isinstance(
            layer, type(plain.run.module.networks["main"].layers[0])
        )
        assert type(layer).__name__ == "Layer"
        other = copy.deepcopy(layer)
        with torch.no_grad():
            layer.output_norm.bias.fill_(7.0)
        x = torch.zeros(1, 3, 16, dtype=torch.float64, requires_grad=True)
        assert not torch.equal(other(x, None), layer(x, None))  # the copy runs on its own weights


def test_averaged_weights_with_gradient_are_those_of_the_call(monkeypatch):
    """Averages are in place only during the call: a layer that ran again later would use the weights."""

    def gradient(more: dict) -> torch.Tensor:
        config = config_of("masked_lm", merge_settings({"train": {"ema": 0.5}}, more))
        with trainer_of(config) as trainer:
            batches = batches_of(trainer.run)
            trainer.step(next(batches))
            trainer.step(next(batches))  # weights and averages differ now
            view = next(batches)[0]["batch"]
            change = torch.zeros(*view.tokens.shape, 16, dtype=torch.float64, requires_grad=True)
            (encoded,) = trainer.run.module.encoding.encode(
                [view.replace(embedding_change=change)], mode="quiet", ema=True
            )
            return torch.autograd.grad(encoded.features.square().sum(), change)[0]

    assert torch.equal(gradient({}), gradient(AGAIN))


def test_an_encoder_without_layers_is_refused_by_name():
    with (
        pytest.raises(
            ConfigError, match="train.activation_checkpointing: .* lists no part 'layers'"
        ),
        trainer_of(config_of("batch that is not text", AGAIN)),
    ):
        pass


def test_a_run_may_go_on_with_and_without(tmp_path):
    config = config_of("masked_lm", merge_settings(DROPOUT, {"train": {"precision": "fp32"}}))
    straight = train_briefly(config, tmp_path / "one")
    with testing.stopped_at(3):
        train_briefly(testing.change_config(config, AGAIN), tmp_path / "two")
    again = train_briefly(config, tmp_path / "two")
    assert all(torch.equal(straight[name], again[name]) for name in straight)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_gradients_are_the_same_with_and_without_and_dropout_falls_the_same_way(
    backend, monkeypatch
):
    monkeypatch.setattr(compiling, "BACKEND", backend)
    gradients = []
    for more in ({}, AGAIN):
        torch._dynamo.reset()
        changes = merge_settings(DROPOUT, {"train": {"micro_batch": 5, "compile": True}})
        gradients.append(
            testing.gradients(config_of("semantic_augment", merge_settings(changes, more)))
        )
        assert not compiling.graph_breaks()
    assert (
        testing.difference(*gradients) < 1e-10
    )  # fp64; the compiler may order the second run of a layer otherwise


@pytest.mark.slow
def test_two_ranks_give_the_gradient_of_one_process_that_keeps_everything(tmp_path):
    out = tmp_path / "out.json"
    done = torchrun(str(RANKS / "recompute_ranks.py"), str(out), ranks=2)
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads(out.read_text())
    assert results["plain"] < 1e-10 and results["compiled"] < 1e-10
