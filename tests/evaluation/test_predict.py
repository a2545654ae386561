"""Prompts that share a context, prompts that stand alone, prompts with options: all answered as if one by one."""

import numpy as np
import torch

from pipeline.evaluation import predict
from pipeline.evaluation.predict import PrefixPrompt
from pipeline.model import generation
from tests.model import tiny

SETTINGS = {"max_new_tokens": 4, "eos_ids": [tiny.EOS], "banned_ids": [tiny.MASK, tiny.PAD], "batch_tokens": 64}


def ids(*numbers):
    return np.array(numbers, dtype=np.int32)


PROMPTS = [
    PrefixPrompt(ids(1, 5, 6, 7), ids(8, 9)),
    PrefixPrompt(ids(1, 9, 9), ids(5)),
    PrefixPrompt(ids(1, 5, 6, 7), ids(10)),
    PrefixPrompt(ids(1, 7, 5), ids(6, 6), ((5,), (6, 7), (8,))),
    PrefixPrompt(ids(1, 8), ids(7, 5, 5)),
]


def log_prob(network, prompt, option):
    """By a forward of its own."""
    row = torch.tensor([[*prompt.prefix_ids.tolist(), *prompt.suffix_ids.tolist(), *option]])
    with torch.no_grad():
        log_probs = network(row).logits[0].float().log_softmax(dim=-1)
    return sum(float(log_probs[prompt.num_tokens + place - 1, token]) for place, token in enumerate(option))


def test_shares_hold_every_prompt_once_and_no_context_twice():
    found = predict.shards(PROMPTS, 2)
    assert found == [[0, 1, 2], [3, 4]]  # tokens: 7 of the first context and 4; 5 and 5
    assert predict.shards(PROMPTS, 1) == [[0, 1, 2, 3, 4]]
    assert sorted(index for share in predict.shards(PROMPTS, 9) for index in share) == [0, 1, 2, 3, 4]


def test_every_prompt_is_answered_as_if_alone_in_the_order_they_came():
    network = tiny.network()
    counted = []
    found = predict.generate(network, PROMPTS, pad_id=tiny.PAD, progress=counted.append, **SETTINGS)
    for prompt, answer in zip(PROMPTS, found, strict=True):
        [alone] = generation.generate(
            network, [np.concatenate([prompt.prefix_ids, prompt.suffix_ids])], pad_id=tiny.PAD, **SETTINGS
        )
        assert answer.output_ids == alone
        expected = [log_prob(network, prompt, option) for option in prompt.options]
        np.testing.assert_allclose(answer.log_probs, expected, atol=1e-4)
    assert sum(counted) == len(PROMPTS)


def test_a_shared_context_is_read_once(monkeypatch):
    network = tiny.network()
    lengths = []
    forward = type(network.model).forward

    def counted(self, *args, **kwargs):
        lengths.append(kwargs["input_ids"].numel())
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(type(network.model), "forward", counted)
    long = ids(*([1] + [5, 6] * 20))
    prompts = [PrefixPrompt(long, ids(7)), PrefixPrompt(long, ids(8)), PrefixPrompt(long, ids(9, 9))]
    predict.generate(network, prompts, pad_id=tiny.PAD, **{**SETTINGS, "max_new_tokens": 1})
    assert sum(length >= len(long) for length in lengths) == 1
    assert sum(lengths) == len(long) + 4


def test_no_prompts_have_no_answers():
    assert predict.generate(tiny.network(), [], pad_id=tiny.PAD, **SETTINGS) == []
