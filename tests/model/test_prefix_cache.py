"""Questions over one context that is read once: the same answers and option weights as by forwards of their own."""

import copy
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Qwen2Config, Qwen2ForCausalLM

from pipeline.model import generation, lora, prefix_cache
from pipeline.model.prefix_cache import Suffix
from pipeline.runtime.errors import ConfigError, NumericError
from tests.model import tiny

NEW_TOKENS = 8
BANNED = [tiny.MASK, tiny.PAD]
ARGUMENTS = {"max_new_tokens": NEW_TOKENS, "eos_ids": [tiny.EOS], "banned_ids": BANNED, "batch_tokens": 10_000}


def drawn(draw, shortest, longest):
    return draw.integers(4, 48, draw.integers(shortest, longest + 1)).astype(np.int32)


def document(length=40, seed=0):
    return np.random.default_rng(seed).integers(4, 48, length).astype(np.int32)


def questions(num=7, seed=1, num_options=4):
    """Questions of one to nine tokens with options of one to six."""
    draw = np.random.default_rng(seed)
    return [
        Suffix(drawn(draw, 1, 9), [drawn(draw, 1, 6).tolist() for _ in range(draw.integers(0, num_options + 1))])
        for _ in range(num)
    ]


def variant(**changes):
    """The tiny model with the same weights and another config."""
    network = tiny.network()
    config = copy.deepcopy(network.config)
    attention = changes.pop("attention", "sdpa")
    for name, value in changes.items():
        setattr(config, name, value)
    other = type(network)._from_config(config, attn_implementation=attention)
    other.load_state_dict(network.state_dict())
    return other.eval()


def adapted(tied):
    """An adapter that changes something: LoRA starts as the identity."""
    network = lora.add_adapter(
        tiny.network(tied=tied), rank=2, alpha=4, dropout=0.5, embedding="lora", norms=True, mask_id=tiny.MASK
    )
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn_like(parameter)
    return network.eval()


def mixed():
    """Layers of both kinds: the first sees everything, the second a window."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=48,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        use_sliding_window=True,
        sliding_window=8,
        max_window_layers=1,
        pad_token_id=tiny.PAD,
        bos_token_id=tiny.BOS,
        eos_token_id=tiny.EOS,
        initializer_range=0.2,
    )
    assert config.layer_types == ["full_attention", "sliding_attention"]
    return Qwen2ForCausalLM(config).eval()


NETWORKS = {
    "untied": lambda: tiny.network(tied=False),
    "tied": lambda: tiny.network(tied=True),
    "eager": lambda: variant(attention="eager"),
    "adapter": lambda: adapted(tied=False),
    "adapter on tied": lambda: adapted(tied=True),
    "window shorter than the document": lambda: variant(sliding_window=12),
    "window shorter than a question": lambda: variant(sliding_window=3),
    "window that ends inside a question": lambda: variant(sliding_window=43),
    "eager window": lambda: variant(sliding_window=12, attention="eager"),
    "layers of both kinds": mixed,
}


def separate(network, prefix, suffix):
    """Log-probability of each option by a forward of its own, without a cache."""
    weights = []
    for option in suffix.options:
        row = torch.tensor([[*prefix, *suffix.suffix_ids, *option]])
        with torch.no_grad():
            logits = network(input_ids=row, attention_mask=torch.ones_like(row), use_cache=False).logits[0]
        at = torch.arange(row.shape[1] - len(option), row.shape[1])
        weights.append(float(logits[at - 1].double().log_softmax(dim=-1)[range(len(option)), row[0, at]].sum()))
    return weights


def alone(network, prefix, suffix, eos_ids=(tiny.EOS,)):
    """Greedy tokens by generation.generate, for this prompt only."""
    prompt = [*prefix, *suffix.suffix_ids]
    return generation.generate(network, [prompt], pad_id=tiny.PAD, **(ARGUMENTS | {"eos_ids": eos_ids}))[0]


def ending(network, prefix, suffixes):
    """A token that some suffix generates third: as EOS it ends some answers early, a random model's own none."""
    return alone(network, prefix, suffixes[0], eos_ids=[-1])[2]


def compare(network, prefix, suffixes, tolerance=1e-4, **changes):
    found = prefix_cache.answer(network, prefix, suffixes, **(ARGUMENTS | changes))
    eos_ids = changes.get("eos_ids", [tiny.EOS])
    expected = [alone(network, prefix, one, eos_ids) for one in suffixes]
    assert [answered.output_ids for answered in found] == expected
    for answered, one in zip(found, suffixes, strict=True):
        np.testing.assert_allclose(answered.log_probs, separate(network, prefix, one), rtol=0, atol=tolerance)
    return found


# PEFT warns that merging a tied embedding is delicate; nothing is merged here.
@pytest.mark.parametrize("name", NETWORKS)
def test_one_reading_gives_what_separate_forwards_give(name):
    network = NETWORKS[name]()
    found = compare(network, document(), questions(), eos_ids=[ending(network, document(), questions())])
    assert len({len(answered.output_ids) for answered in found}) > 1  # some end at EOS, some at the limit
    assert len({tuple(answered.output_ids) for answered in found}) > 3


@pytest.mark.parametrize("window", [None, 12])
def test_in_double_precision_the_numbers_are_equal_to_nine_places(window):
    compare(variant(sliding_window=window).double(), document(), questions(), tolerance=1e-9)


def test_the_windows_of_the_tests_are_felt():
    weights = [
        np.concatenate(
            [a.log_probs for a in prefix_cache.answer(variant(sliding_window=w), document(), questions(), **ARGUMENTS)]
        )
        for w in (None, 43, 12, 3)
    ]
    for wide, narrow in itertools.pairwise(weights):
        assert np.abs(wide - narrow).max() > 1e-2


@pytest.mark.parametrize("distance", [11, 12])
def test_a_window_ends_at_the_very_token(distance):
    """With one layer, the suffix's end sees `window` tokens, itself included: 11 before it, not 12."""
    network = variant(sliding_window=12)
    network.model.layers = network.model.layers[:1]
    network.config.num_hidden_layers = 1
    prefix, suffix = document(30), [5, 6, 7]
    changed = prefix.copy()
    changed[30 + len(suffix) - 1 - distance] = 4 + (changed[30 + len(suffix) - 1 - distance] - 3) % 44
    before, after = (
        prefix_cache.answer(network, ids, [Suffix(suffix, [[9]])], **ARGUMENTS)[0].log_probs
        for ids in (prefix, changed)
    )
    assert (before == after) == (distance == 12)


@pytest.mark.parametrize("window", [None, 12])
@pytest.mark.parametrize("batch_tokens", [1, 9, 25, 60])
def test_passes_of_any_size_give_the_same(window, batch_tokens):
    compare(variant(sliding_window=window), document(), questions(), batch_tokens=batch_tokens)


def test_the_order_of_suffixes_and_options_does_not_matter():
    network, prefix, suffixes = tiny.network(), document(), questions()
    found = prefix_cache.answer(network, prefix, suffixes, **ARGUMENTS)
    turned = [Suffix(one.suffix_ids, one.options[::-1]) for one in suffixes[::-1]]
    for one, other in zip(found, prefix_cache.answer(network, prefix, turned, **ARGUMENTS)[::-1], strict=True):
        assert one.output_ids == other.output_ids
        np.testing.assert_allclose(one.log_probs, other.log_probs[::-1], rtol=0, atol=1e-5)


def test_options_may_share_tokens_and_be_equal_and_of_any_length():
    options = [[5], [5, 6], [5, 6, 7, 8, 9, 10], [5, 6, 7], [5, 6], [tiny.EOS], [tiny.MASK, tiny.PAD]]
    [answered] = compare(tiny.network(), document(), [Suffix([8, 9], options)])
    assert answered.log_probs[1] == pytest.approx(answered.log_probs[4], abs=1e-6)
    assert answered.log_probs[0] > answered.log_probs[1] > answered.log_probs[3] > answered.log_probs[2]


@pytest.mark.parametrize("options", [[], [[5, 6]]])
def test_one_branch_is_enough(options):
    compare(tiny.network(), document(), [Suffix([8, 9], options)])


def test_no_suffixes_need_no_reading():
    assert prefix_cache.answer(tiny.network(), document(), [], **ARGUMENTS) == []


def test_a_prefix_may_be_empty_or_of_one_token():
    for prefix in ([], [5]):
        compare(tiny.network(), prefix, questions(), batch_tokens=20)


def test_nothing_is_generated_when_nothing_is_asked_for():
    found = prefix_cache.answer(tiny.network(), document(), questions(), **(ARGUMENTS | {"max_new_tokens": 0}))
    assert [answered.output_ids for answered in found] == [[]] * len(found)
    assert any(answered.log_probs for answered in found)


def test_an_empty_suffix_or_option_is_our_own_mistake():
    for suffix in (Suffix([]), Suffix([5], [[6], []])):
        with pytest.raises(AssertionError):
            prefix_cache.answer(tiny.network(), document(), [suffix], **ARGUMENTS)


def test_no_branch_is_moved_by_what_its_neighbours_say():
    """Exactly: hidden tokens weigh nothing, they are not merely small."""
    network, prefix = tiny.network(), document()
    options = [[10, 11, 12], [13, 14, 15]]
    probe = Suffix([7, 8, 9], options)
    draw = np.random.default_rng(3)
    seen = []
    for _ in range(4):
        before, behind = (Suffix(draw.integers(4, 48, 5), draw.integers(4, 48, (2, 4)).tolist()) for _ in range(2))
        asked = [before, Suffix(probe.suffix_ids, [*options, draw.integers(4, 48, 4).tolist()]), behind]
        answered = prefix_cache.answer(network, prefix, asked, **ARGUMENTS)[1]
        seen.append((answered.output_ids, answered.log_probs[:2]))
    assert seen == [seen[0]] * 4


def test_banned_tokens_are_never_generated_but_weighed_as_options():
    network, prefix, suffixes = tiny.network(), document(), questions()
    free = prefix_cache.answer(network, prefix, suffixes, **(ARGUMENTS | {"banned_ids": []}))
    favourite = free[0].output_ids[0]
    asked = [Suffix(one.suffix_ids, [[favourite]]) for one in suffixes]
    found = prefix_cache.answer(network, prefix, asked, **(ARGUMENTS | {"banned_ids": [favourite]}))
    assert favourite not in {token for answered in found for token in answered.output_ids}
    np.testing.assert_allclose(found[0].log_probs, separate(network, prefix, asked[0]), atol=1e-4)


def counted(network):
    """What each forward reads: the number of new tokens, and that of the tokens it may look at."""
    reads = []

    def note(_, __, given_arguments):
        cache = given_arguments["past_key_values"]
        num_new = given_arguments["input_ids"].numel()
        reads.append((num_new, cache.get_seq_length() + num_new))

    network.base_model.register_forward_pre_hook(note, with_kwargs=True)
    return reads


def test_the_prefix_is_read_once_and_finished_suffixes_no_further():
    network, prefix, suffixes = tiny.network(), document(), questions()
    eos_ids = [ending(network, prefix, suffixes)]
    reads = counted(network)
    found = prefix_cache.answer(network, prefix, suffixes, **(ARGUMENTS | {"eos_ids": eos_ids}))
    going = [sum(len(answered.output_ids) > num_new for answered in found) for num_new in range(NEW_TOKENS - 1)]
    num_read = sum(one.num_read for one in suffixes)
    assert [num_new for num_new, _ in reads] == [len(prefix), num_read, *(num for num in going if num)]
    assert 0 < reads[-1][0] < len(suffixes)
    # The options have left before generation starts.
    assert reads[2][1] == len(prefix) + sum(len(one.suffix_ids) for one in suffixes) + going[0]


@pytest.mark.parametrize(("batch_tokens", "pass_tokens"), [(30, 4096), (4096, 30)])
def test_every_pass_starts_from_the_bare_prefix_and_keeps_the_budget(batch_tokens, pass_tokens, monkeypatch):
    monkeypatch.setattr(prefix_cache, "PASS_TOKENS", pass_tokens)
    network, prefix, suffixes = tiny.network(), document(), questions()
    reads = counted(network)
    changes = {"max_new_tokens": 1, "batch_tokens": batch_tokens}
    prefix_cache.answer(network, prefix, suffixes, **(ARGUMENTS | changes))
    assert len(reads) > 3
    assert all(num_tokens == len(prefix) + num_new for num_new, num_tokens in reads[1:])
    assert max(num_new for num_new, _ in reads[1:]) <= 30


def test_only_ends_of_questions_and_options_get_logits():
    network, prefix = tiny.network(), document()
    shapes = []
    network.get_output_embeddings().register_forward_pre_hook(lambda _, inputs: shapes.append(inputs[0].shape))
    asked = [Suffix([5, 6, 7], [[8], [9, 10]]), Suffix([5, 6], [])]
    prefix_cache.answer(network, prefix, asked, **(ARGUMENTS | {"max_new_tokens": 1}))
    assert shapes == [(1, 3, 16), (1, 2, 16)]  # three option tokens, then the first new token of two suffixes


def test_many_option_tokens_are_weighed_in_parts(monkeypatch):
    monkeypatch.setattr(prefix_cache, "LOGIT_ROWS", 5)
    compare(tiny.network(), document(), questions())


def test_half_precision_stays_close_to_full():
    network, prefix, asked = tiny.network(), document(), questions()
    full = prefix_cache.answer(network, prefix, asked, **ARGUMENTS)
    half = prefix_cache.answer(tiny.network(dtype=torch.bfloat16), prefix, asked, **ARGUMENTS)
    for one, other in zip(full, half, strict=True):
        np.testing.assert_allclose(other.log_probs, one.log_probs, rtol=0.05, atol=0.3)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(("options", "max_new_tokens"), [([], 1), ([[8, 9]], 0)])
def test_logits_that_are_not_finite_stop_it_and_leave_the_mode(value, options, max_new_tokens):
    network = tiny.network().train()
    with torch.no_grad():
        network.get_output_embeddings().weight[7] = value
    with pytest.raises(NumericError, match="prompt of 42 tokens"):
        asked = [Suffix([5, 6], options)]
        prefix_cache.answer(network, document(), asked, **(ARGUMENTS | {"max_new_tokens": max_new_tokens}))
    assert network.training


def test_the_mode_of_the_model_is_given_back_and_dropout_is_off_meanwhile():
    network = adapted(tied=False)
    calm = prefix_cache.answer(network, document(), questions(), **ARGUMENTS)
    assert prefix_cache.answer(network.train(), document(), questions(), **ARGUMENTS) == calm
    assert network.training


def test_layers_that_attend_in_another_way_are_refused():
    network = tiny.network()
    network.config.layer_types = ["full_attention", "chunked_attention"]
    with pytest.raises(ConfigError, match="layers of kind chunked_attention"):
        prefix_cache.answer(network, document(), questions(), **ARGUMENTS)


TOKENS = st.integers(4, 47)
BRANCHES = st.builds(
    Suffix,
    st.lists(TOKENS, min_size=1, max_size=6),
    st.lists(st.lists(TOKENS, min_size=1, max_size=4), max_size=3),
)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(TOKENS, max_size=20),
    st.lists(BRANCHES, min_size=1, max_size=4),
    st.sampled_from([None, 2, 5, 21]),  # generate's own cache of a window of 1 would keep everything
    st.integers(1, 40),
)
def test_trees_of_any_shape_equal_separate_forwards(prefix, suffixes, window, batch_tokens):
    compare(variant(sliding_window=window).double(), prefix, suffixes, 1e-9, batch_tokens=batch_tokens)


@given(st.lists(st.builds(Suffix, st.lists(TOKENS, min_size=1, max_size=30)), max_size=20), st.integers(1, 60))
def test_packs_hold_every_suffix_in_order_within_the_budget(suffixes, pass_tokens):
    passes = list(prefix_cache.passes(suffixes, pass_tokens))
    assert [one for members in passes for one in members] == suffixes
    assert all(len(members) == 1 or sum(one.num_read for one in members) <= pass_tokens for members in passes)
    for members, later in itertools.pairwise(passes):
        assert sum(one.num_read for one in members) + later[0].num_read > pass_tokens
