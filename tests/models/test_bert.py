"""The BERT encoder: against another implementation, and option by option."""

from __future__ import annotations

import pytest
import torch

from fwk import BuildContext, Vocabulary
from fwk.config.resolve import resolve
from fwk.contracts.encoder import Encoder
from fwk.errors import ConfigError
from fwk.models.bert import SIZES, Bert
from fwk.nn.relative import buckets_of
from fwk.testing import assert_conforms

V, T, B = 31, 11, 3


def bert(**options) -> Bert:
    options = {
        "layers": 2,
        "width": 16,
        "heads": 4,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        **options,
    }
    torch.manual_seed(0)
    return Bert(
        Bert.Config(**options), BuildContext(vocabulary=Vocabulary(size=V, pad=0), length=T)
    )


def inputs():
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(1, V, (B, T), generator=generator)
    mask = torch.arange(T) < torch.tensor([[T], [6], [3]])
    return {"tokens": torch.where(mask, tokens, 0)}, mask


def test_features_equal_those_of_transformers_bert():
    transformers = pytest.importorskip("transformers")
    ours = bert(positions="learned").eval()
    config = transformers.BertConfig(
        vocab_size=V,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=T,
        layer_norm_eps=1e-12,
    )
    theirs = transformers.BertModel(config, add_pooling_layer=False).eval()
    state = {
        "embeddings.word_embeddings.weight": ours.embeddings.token.weight,
        "embeddings.position_embeddings.weight": ours.embeddings.position.weight,
        "embeddings.token_type_embeddings.weight": ours.embeddings.segment.weight,
        "embeddings.LayerNorm.weight": ours.embeddings.norm.weight,
        "embeddings.LayerNorm.bias": ours.embeddings.norm.bias,
    }
    for i, layer in enumerate(ours.layers):
        for part, name in ((0, "query"), (1, "key"), (2, "value")):
            for kind in ("weight", "bias"):
                packed = getattr(layer.query_key_value, kind)
                state[f"encoder.layer.{i}.attention.self.{name}.{kind}"] = packed[
                    16 * part : 16 * (part + 1)
                ]
        for kind in ("weight", "bias"):
            for theirs_name, module in (
                ("attention.output.dense", layer.attention_output),
                ("intermediate.dense", layer.inner),
                ("attention.output.LayerNorm", layer.attention_norm),
                ("output.dense", layer.output),
                ("output.LayerNorm", layer.output_norm),
            ):
                state[f"encoder.layer.{i}.{theirs_name}.{kind}"] = getattr(module, kind)
    missing = theirs.load_state_dict({k: v.detach() for k, v in state.items()}, strict=False)
    assert not missing.unexpected_keys and all("position_ids" in k for k in missing.missing_keys)
    given, mask = inputs()
    segments = (torch.arange(T) > 4).long().expand(B, T)
    with torch.no_grad():
        a = ours({**given, "segments": segments}, mask).features[mask]
        b = theirs(
            given["tokens"], attention_mask=mask.long(), token_type_ids=segments
        ).last_hidden_state[mask]
    assert torch.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"positions": "learned"},
        {"positions": "relative"},
        {"positions": "none"},
        {"norm": "pre"},
        {"embedding": 8},
        {"segments": 0},
        {"initialisation": "torch"},
        {"initialisation": "fan_in"},
        {"reach": 2},
    ],
    ids=str,
)
@pytest.mark.mostly_slow("relative")
def test_every_option_conforms(options):
    assert_conforms("model", "bert", options=options)


def test_sizes_are_the_published_ones():
    parameters = sum(
        p.numel()
        for p in Bert(
            Bert.Config(size="base", positions="learned"),
            BuildContext(vocabulary=Vocabulary(size=30522), length=512),
        ).parameters()
    )
    assert parameters == 108_891_648  # BERT-base uncased without its pooler
    assert SIZES["large"] == (24, 1024, 16)


def test_neighbour_positions_look_at_the_neighbours_from_the_start():
    table = bert(positions="neighbour", reach=4).relative.table
    centre = 4
    assert [int(row.argmax()) - centre for row in table] == [-1, 1, -2, 2]
    assert float(table.detach().max()) == 4.0


def test_relative_bias_depends_on_the_clipped_offset_only():
    model = bert(positions="relative", reach=3)
    torch.nn.init.normal_(model.relative.table)
    bias = model.relative(10)
    for i in range(10):
        for j in range(10):
            offset = max(-3, min(3, j - i))
            assert torch.equal(bias[:, i, j], model.relative.table[:, 3 + offset])


def test_without_positions_the_encoder_is_blind_to_order():
    model = bert(positions="none", segments=0).double().eval()
    tokens = torch.randint(1, V, (1, T))
    order = torch.randperm(T)
    a = model({"tokens": tokens}, None).features
    b = model({"tokens": tokens[:, order]}, None).features
    assert torch.allclose(a[:, order], b, atol=1e-12)


def test_a_change_of_embeddings_is_added_before_the_first_norm():
    model = bert().double().eval()
    given, mask = inputs()
    change = torch.zeros(B, T, 16, dtype=torch.float64)
    assert torch.equal(model(given, mask, change).features, model(given, mask).features)
    change[0, 1] = 1e-3 * torch.randn(16, dtype=torch.float64)
    moved = (model(given, mask, change).features - model(given, mask).features).abs().amax(-1)
    assert moved[0].max() > 0 and not moved[1:].any()


def test_states_are_the_layers_and_the_last_one_is_the_features():
    model = bert().eval()
    given, mask = inputs()
    encoded = model(given, mask, None, model.state_names())
    assert list(encoded.states) == ["embedding", "layer_1", "layer_2"]
    assert torch.equal(encoded.states["layer_2"], encoded.features)


def test_a_change_of_embeddings_is_as_wide_as_a_factorised_embedding():
    model = bert(embedding=8)
    given, mask = inputs()
    assert model.embedding_width == 8 and bert().embedding_width == 16
    model(given, mask, torch.zeros(B, T, model.embedding_width))

    class WithoutTokens(Encoder):
        width = 5

    assert WithoutTokens(None, BuildContext()).embedding_width == 5


def test_an_impossible_shape_is_refused_before_any_data_is_loaded():
    resolved = resolve(
        overrides=["task.data=nowhere.txt", "model.width=130", "model.heads=4"]
    ).config
    with pytest.raises(ConfigError, match="^model.heads: width 130 is not a multiple of 4 heads"):
        _ = resolved.views_by_name
    network = "{name: bert, size: mini, heads: 3}"
    with pytest.raises(
        ConfigError, match="^networks.small.heads: width 256 is not a multiple of 3 heads"
    ):
        _ = resolve(overrides=[f"networks.small={network}"]).config.views_by_name


def test_an_unknown_state_names_the_ones_there_are():
    with pytest.raises(ConfigError, match="layer_1, layer_2"):
        bert().check_states(["layer_7"], "criterion 'x'")


@pytest.mark.parametrize(
    "options,words",
    [
        ({"width": 18}, "not a multiple of 4 heads"),
        ({"positions": "learned", "length": None}, "longest sequence"),
    ],
)
def test_impossible_shapes_are_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        Bert(
            Bert.Config(**{"layers": 1, "width": 16, "heads": 4, **options}),
            BuildContext(vocabulary=Vocabulary(size=V), length=0),
        )


@pytest.mark.parametrize(
    "buckets, farthest", [(32, 128), (32, 256), (16, 20), (8, 64), (64, 1000), (4, 5)]
)
@pytest.mark.parametrize("direction", ["both", "left_to_right"])
def test_buckets_are_those_of_t5(buckets, farthest, direction):
    t5 = pytest.importorskip("transformers.models.t5.modeling_t5")
    offsets = torch.arange(-3 * farthest, 3 * farthest + 1)
    theirs = t5.T5Attention._relative_position_bucket(
        offsets, direction == "both", buckets, farthest
    )
    assert torch.equal(buckets_of(offsets, buckets, farthest, direction), theirs)


def test_an_encoder_that_reads_from_the_right_has_the_mirrored_buckets():
    offsets = torch.arange(-50, 51)
    assert torch.equal(
        buckets_of(offsets, 8, 20, "right_to_left"), buckets_of(-offsets, 8, 20, "left_to_right")
    )


def test_the_bias_stands_on_the_logits_of_every_layer():
    """Against attention written out: the same table in both layers, looked up by bucket."""
    model = bert(positions="none", buckets=8, farthest=6, norm="pre").double()
    with torch.no_grad():
        model.bucket_bias.table.normal_()
    given, _ = inputs()
    where = torch.arange(T)
    bias = model.bucket_bias.table[
        :, buckets_of(where[None] - where[:, None], 8, 6)
    ]  # [heads, T, T]
    x = model.embeddings(given, None)
    for layer in model.layers:
        normed = layer.attention_norm(x)
        query, key, value = (
            part.view(B, T, 4, 4).transpose(1, 2)
            for part in layer.query_key_value(normed).chunk(3, -1)
        )
        mixed = (query @ key.transpose(-2, -1) / 2 + bias).softmax(-1) @ value
        x = x + layer.attention_output(mixed.transpose(1, 2).reshape(B, T, 16))
        x = x + layer.output(torch.nn.functional.gelu(layer.inner(layer.output_norm(x))))
    torch.testing.assert_close(
        model(given, None).features, model.final_norm(x), rtol=1e-10, atol=1e-12
    )


@pytest.mark.parametrize("positions", ["learned", "neighbour", "none"])
def test_the_bias_may_stand_beside_any_positions_and_starts_at_nothing(positions):
    given, mask = inputs()
    plain, biased = bert(positions=positions), bert(positions=positions, buckets=8)
    biased.load_state_dict({**plain.state_dict(), "bucket_bias.table": torch.zeros(4, 8)})
    assert torch.allclose(
        plain(given, mask).features[mask], biased(given, mask).features[mask], atol=1e-6
    )
    with torch.no_grad():
        biased.bucket_bias.table.normal_()
    assert not torch.allclose(
        plain(given, mask).features[mask], biased(given, mask).features[mask], atol=1e-4
    )
    assert "bucket_bias.place" not in biased.state_dict()  # it follows from the options


@pytest.mark.parametrize(
    "name, options",
    [
        ("bert", {}),
        ("bert", {"direction": "left_to_right"}),
        ("two_tower", {}),
        ("scaled", {"width": 0.5, "share": "token"}),
    ],
)
@pytest.mark.mostly_slow("two_tower")
def test_any_encoder_may_have_the_bias(name, options):
    if name == "scaled":
        from fwk.testing import tiny_config, trainer_of

        config = tiny_config(
            {
                "model": {"buckets": 8},
                "criterion": {"masked_lm": {}},
                "networks": {"other": {"name": name, **options}},
                "views": {"masked": {"encoder": "other"}},
            }
        )
        with trainer_of(config) as trainer:
            tables = [
                n
                for n, _ in trainer.run.module.named_parameters()
                if n.endswith("bucket_bias.table")
            ]
        assert tables == [
            "networks.main.bucket_bias.table",
            "networks.other.inner.bucket_bias.table",
        ]
        return
    assert_conforms(
        "model",
        name,
        options={"layers": 1, "width": 16, "heads": 2, "buckets": 8, "farthest": 6, **options},
    )


@pytest.mark.parametrize(
    "options, message",
    [
        ({"buckets": 7}, "an even number of at least 4, got 7"),
        ({"buckets": 2}, "an even number of at least 4, got 2"),
        ({"buckets": 1, "direction": "left_to_right"}, "a number of at least 2, got 1"),
        (
            {"buckets": 32, "farthest": 8},
            "the nearest 8 offsets have a bucket each; expected more than that, got 8",
        ),
    ],
)
def test_buckets_that_do_not_work_out_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        bert(**options)
