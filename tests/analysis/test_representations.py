"""Alignment by literal vectors; matching on made representations, and on a real network against whole prompts."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from pipeline.analysis import representations
from pipeline.model import collator, generation
from pipeline.model.causal_lm import hidden_states
from pipeline.training import objective
from tests.analysis.test_attention import adapted, windowed
from tests.model import tiny

NUM = 16


def vectors(*keys: object) -> torch.Tensor:
    """A direction of its own for every key, the same each time; nearly at right angles."""
    return torch.stack(
        [torch.from_numpy(np.random.default_rng(abs(hash(key)) % 2**32).normal(size=256)) for key in keys]
    )


def made(represent) -> tuple[torch.Tensor, torch.Tensor]:
    """z of the full and of the masked views: represent(context, question, view), question a number as context is.

    Example n asks question n, the others' are n + 1, n + 2, n + 3, and all ask question 0.
    """
    asked = [[n, *((n + step) % NUM for step in (1, 2, 3)), 0] for n in range(NUM)]
    return tuple(
        torch.stack([torch.stack([represent(n, question, view) for question in asked[n]]) for n in range(NUM)])
        for view in (0, 1)
    )


def shares(represent) -> dict[str, float]:
    matched = representations.match(*made(represent), [f"q{n}" for n in range(NUM)], 20)
    return {name: found["mean"] for name, found in matched.items()}


def test_what_ignores_the_question_matches_shuffled_questions_as_well_and_a_context_with_itself_by_chance():
    found = shares(lambda context, question, view: vectors((1, context))[0])
    assert found == {"own": 1.0, "shuffled": 1.0, "one_question": 1.0, "same_context": 0.25}


def test_what_reads_the_question_alone_tells_no_contexts_apart():
    found = shares(lambda context, question, view: vectors((2, question))[0])
    assert found == {"own": 1.0, "shuffled": 1.0, "one_question": 1 / NUM, "same_context": 1.0}


def test_what_finds_the_answer_matches_the_own_question_alone():
    """The kept chunks answer the own question only: without an answer the views have nothing in common."""

    def represent(context: int, question: int, view: int) -> torch.Tensor:
        return vectors((3, question) if question == context else (4, context, question, view))[0]

    found = shares(represent)
    assert found["own"] == found["same_context"] == 1.0
    assert found["shuffled"] < 0.4 and found["one_question"] < 0.4


def test_equally_near_candidates_share_the_hit():
    cosine = torch.tensor([[0.5, 0.5, 0.1], [0.5, 0.4, 0.1], [0.5, 0.5 + 1e-8, 0.6]])
    assert representations.hits(cosine, torch.tensor([0, 0, 0])).tolist() == [0.5, 1.0, 0.0]


@given(st.integers(0, 10**6), st.integers(2, 8), st.integers(1, 6))
def test_hits_of_distinct_cosines_are_those_of_the_nearest(seed: int, num: int, num_candidates: int):
    cosine_NC = torch.from_numpy(np.random.default_rng(seed).normal(size=(num, num_candidates)))
    own_N = torch.from_numpy(np.random.default_rng(seed + 1).integers(num_candidates, size=num))
    assert representations.hits(cosine_NC, own_N).tolist() == (cosine_NC.argmax(dim=1) == own_N).double().tolist()


def test_figures_have_an_interval_and_the_level_of_chance():
    full = torch.eye(4)[:, None].expand(-1, 3, -1)  # all questions have one representation
    masked = full.clone()
    masked[1] *= -1
    found = representations.match(full, masked, list("abcd"), 100)
    assert found["own"]["mean"] == 0.75 and found["own"]["low"] < 0.75 < found["own"]["high"]
    assert (found["own"]["chance"], found["own"]["num_candidates"]) == (0.25, 4)


def test_other_questions_are_others_in_the_order_behind_and_no_question_twice():
    questions = [[1], [1], [2], [3], [2]]
    apart = range(5)
    assert representations.other_questions(questions, apart, 2) == [[2, 3], [2, 3], [3, 0], [4, 0], [0, 3]]
    assert representations.other_questions(questions, apart, 5) == representations.other_questions(
        questions, apart, 2
    )  # no more
    assert representations.other_questions([[1], [1]], [0, 1]) == [[], []]


def test_other_questions_are_asked_about_other_contexts():
    questions = [[1], [2], [3], [4]]
    assert representations.other_questions(questions, "aabb", 2) == [[2, 3], [2, 3], [0, 1], [0, 1]]
    assert representations.other_questions(questions, "aaaa", 2) == [[]] * 4


CONTEXT = [1, 9, 8, 7, 6, 5, 4, 10, 11, 12]
QUESTIONS = [[20, 21, 22], [30], [40, 41, 42, 43, 44]]
PLACES = {"arange": list(range(13)), "gaps": [0, 1, 2, 7, 8, 9, 10, 20, 21, 22, 30, 31, 32]}


@pytest.mark.parametrize("batch_tokens", [1, 30, 1000])
@pytest.mark.parametrize(
    ("network", "places"),
    [("plain", "arange"), ("plain", "gaps"), ("adapter", "gaps"), ("window", "arange"), ("wide window", "arange")],
)
def test_a_question_behind_a_cached_context_is_read_as_the_whole_prompt(network: str, places: str, batch_tokens: int):
    made = {"plain": tiny.network, "adapter": adapted}.get(network, lambda: windowed(4 if network == "window" else 50))
    causal_lm = made()
    prompt = [*CONTEXT, *QUESTIONS[0]]
    end, positions = len(CONTEXT), PLACES[places]
    asked = representations.ContextQuestions(prompt[:end], positions[:end], positions[end], QUESTIONS)
    z_NQD = representations.represent(causal_lm, [asked, asked], pad_id=tiny.PAD, batch_tokens=batch_tokens)
    assert z_NQD.shape == (2, 3, 16)
    first = PLACES[places][len(CONTEXT)]
    for question, z_D in zip(QUESTIONS, z_NQD[1], strict=True):
        ids = np.array([*CONTEXT, *question], dtype=np.int32)
        own = np.array([*PLACES[places][: len(CONTEXT)], *range(first, first + len(question))], dtype=np.int32)
        view = collator.pad([ids], [own], [len(ids)], tiny.PAD)
        with torch.inference_mode():
            expected = objective.represent(hidden_states(causal_lm, view), view, "last_prompt")[0]
        torch.testing.assert_close(z_D, expected, atol=2e-5, rtol=1e-4)
        assert functional.cosine_similarity(z_D, z_NQD[0, 0], dim=0) < 0.999 or question is QUESTIONS[0]


def test_positions_that_run_on_are_known():
    assert generation.runs_on([0, 1, 2]) and generation.runs_on(np.arange(4, dtype=np.int32))
    assert not generation.runs_on([0, 1, 3]) and not generation.runs_on([1, 2])


def test_own_views_equal_and_others_orthogonal():
    found = representations.align(torch.eye(3) * 5, torch.eye(3))
    assert found.alignment == pytest.approx(1.0)
    assert found.alignment_others == pytest.approx(0.0)
    assert found.in_batch_accuracy == 1.0
    assert found.uniformity == pytest.approx(-4.0)  # every distance is sqrt 2


def test_swapped_views_match_nothing():
    found = representations.align(torch.eye(2), torch.eye(2)[[1, 0]])
    assert found.alignment == pytest.approx(0.0)
    assert found.alignment_others == pytest.approx(1.0)
    assert found.in_batch_accuracy == 0.0


def test_uniformity_is_the_log_of_the_mean_kernel():
    angles = torch.tensor([0.0, math.pi / 3, math.pi])
    points = torch.stack([angles.cos(), angles.sin()], dim=1)
    squared = [(points[i] - points[j]).square().sum().item() for i, j in ((0, 1), (0, 2), (1, 2))]
    expected = math.log(sum(math.exp(-2 * value) for value in squared) / 3)
    assert representations.align(points, points).uniformity == pytest.approx(expected, rel=1e-5)


def test_each_view_has_its_own_uniformity_and_each_example_its_cosine():
    full, masked = torch.eye(3), torch.tensor([[1.0, 0, 0], [2.0, 0, 0], [3.0, 0, 0]])
    found = representations.align(full, masked)
    assert (found.uniformity, found.uniformity_masked) == pytest.approx((-4.0, 0.0))
    assert representations.cosines(full, masked) == pytest.approx([1.0, 0.0, 0.0])
    assert found.alignment == pytest.approx(1 / 3)
