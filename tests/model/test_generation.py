"""Greedy generation: the same tokens as transformers' own, whichever prompts share a batch."""

import copy
import itertools
from collections import Counter

import numpy as np
import pytest
import torch

from pipeline.model import generation, lora
from pipeline.runtime.errors import NumericError
from tests.model import tiny

NEW_TOKENS = 8
BANNED = [tiny.MASK, tiny.PAD]
ARGUMENTS = {"max_new_tokens": NEW_TOKENS, "eos_ids": [tiny.EOS], "pad_id": tiny.PAD, "banned_ids": BANNED}


def prompts(num_prompts=16, longest=40, seed=0):
    draw = np.random.default_rng(seed)
    return [draw.integers(4, 48, draw.integers(1, longest)).astype(np.int32) for _ in range(num_prompts)]


def adapted(tied):
    """An adapter that changes something: LoRA starts as the identity."""
    network = lora.add_adapter(
        tiny.network(tied=tied), rank=2, alpha=4, dropout=0.0, embedding="lora", norms=True, mask_id=tiny.MASK
    )
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn_like(parameter)
    return network.eval()


def reference(network, prompt):
    """transformers' generate, one prompt at a time."""
    ids = torch.tensor(prompt, dtype=torch.long)[None]
    output = network.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        eos_token_id=tiny.EOS,
        pad_token_id=tiny.PAD,
        suppress_tokens=BANNED,
    )[0, len(prompt) :].tolist()
    return output[: output.index(tiny.EOS)] if tiny.EOS in output else output


def windowed(window):
    network = tiny.network()
    config = copy.deepcopy(network.config)
    config.sliding_window = window
    other = type(network)(config)
    other.load_state_dict(network.state_dict())
    return other.eval()


NETWORKS = {
    "untied": lambda: tiny.network(tied=False),
    "tied": lambda: tiny.network(tied=True),
    "adapter": lambda: adapted(tied=False),
    "adapter on tied": lambda: adapted(tied=True),
    "sliding window": lambda: windowed(8),
}


# PEFT warns that merging a tied embedding is delicate; nothing is merged here.
@pytest.mark.parametrize("name", NETWORKS)
def test_batches_give_what_transformers_gives_one_by_one(name):
    network = NETWORKS[name]()
    given = prompts()
    expected = [reference(network, prompt) for prompt in given]
    assert len({len(output) for output in expected}) > 1  # some end at EOS, some at the limit
    assert len({tuple(output) for output in expected}) > 10
    for batch_tokens in (1, 100, 10_000):
        assert generation.generate(network, given, **ARGUMENTS, batch_tokens=batch_tokens) == expected


def test_the_sliding_window_of_the_test_is_felt():
    given = [prompt for prompt in prompts() if len(prompt) > 20]
    near, far = (generation.generate(windowed(w), given, **ARGUMENTS, batch_tokens=1000) for w in (8, None))
    assert near != far


def test_positions_may_have_gaps_and_new_tokens_go_on_from_the_last():
    network = tiny.network()
    given = prompts()
    draw = np.random.default_rng(1)
    positions = [np.sort(draw.choice(100, len(prompt), replace=False)).astype(np.int32) for prompt in given]
    expected = []
    for prompt, places in zip(given, positions, strict=True):
        ids, at = prompt.tolist(), places.tolist()
        for _ in range(NEW_TOKENS):
            with torch.no_grad():
                mask = torch.ones(1, len(ids))
                logits = network(torch.tensor([ids]), attention_mask=mask, position_ids=torch.tensor([at])).logits[
                    0, -1
                ]
            logits[BANNED] = -torch.inf
            if (token := int(logits.argmax())) == tiny.EOS:
                break
            ids, at = [*ids, token], [*at, at[-1] + 1]
        expected.append(ids[len(prompt) :])
    assert generation.generate(network, given, **ARGUMENTS, batch_tokens=200, positions=positions) == expected
    assert generation.generate(network, given, **ARGUMENTS, batch_tokens=200) != expected


def test_positions_without_gaps_change_nothing():
    network = tiny.network()
    given = prompts()
    plain = generation.generate(network, given, **ARGUMENTS, batch_tokens=200)
    positions = [range(len(prompt)) for prompt in given]
    assert generation.generate(network, given, **ARGUMENTS, batch_tokens=200, positions=positions) == plain


def test_padding_never_turns_into_nan_and_hides_nothing():
    """One long prompt beside one-token prompts: rows padded almost whole."""
    network = tiny.network()
    given = [[5], prompts(1, longest=200, seed=4)[0].tolist() + [7] * 50, [6]]
    alone = [generation.generate(network, [prompt], **ARGUMENTS, batch_tokens=1)[0] for prompt in given]
    assert generation.generate(network, given, **ARGUMENTS, batch_tokens=10_000) == alone


def test_banned_tokens_are_never_generated_even_when_most_likely():
    network = tiny.network()
    given = prompts(6)
    free = generation.generate(network, given, **(ARGUMENTS | {"banned_ids": []}), batch_tokens=1000)
    favourite, _ = Counter(itertools.chain(*free)).most_common(1)[0]
    banned = generation.generate(network, given, **(ARGUMENTS | {"banned_ids": [favourite]}), batch_tokens=1000)
    assert favourite not in set(itertools.chain(*banned))


def test_finished_rows_are_computed_no_further():
    network = tiny.network()
    given = prompts()
    rows = []
    network.get_input_embeddings().register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    outputs = generation.generate(network, given, **ARGUMENTS, batch_tokens=10_000)
    going = [sum(len(output) > num_new for output in outputs) for num_new in range(NEW_TOKENS - 1)]
    assert rows == [len(given), *(num_rows for num_rows in going if num_rows)]
    assert rows[-1] < len(given)


def test_only_the_last_position_of_a_prompt_gets_logits():
    network = tiny.network()
    shapes = []
    network.get_output_embeddings().register_forward_pre_hook(lambda _, inputs: shapes.append(inputs[0].shape))
    generation.generate(network, prompts(5), **(ARGUMENTS | {"max_new_tokens": 1}), batch_tokens=10_000)
    assert shapes == [(1, 5, 16)]


def test_progress_counts_every_prompt_and_the_mode_of_the_model_is_given_back():
    network = tiny.network().train()
    finished = []
    generation.generate(network, prompts(9), **ARGUMENTS, batch_tokens=60, progress=finished.append)
    assert sum(finished) == 9 and len(finished) > 1
    assert network.training
    assert generation.generate(network, [], **ARGUMENTS, batch_tokens=60) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_stop_generation(value):
    network = tiny.network()
    with torch.no_grad():
        network.get_output_embeddings().weight[7] = value
    with pytest.raises(NumericError, match="prompt of 3 tokens"):
        generation.generate(network, [[5, 6, 7]], **ARGUMENTS, batch_tokens=10)
