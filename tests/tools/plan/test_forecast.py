"""A plan's forecast: what must grow does, what is shared is counted once, and the advice fits."""

from dataclasses import replace
from typing import Any

import pytest

from pipeline.runtime import config
from pipeline.runtime.methods import TRAINED
from pipeline.tools.plan import cost, model_shape
from pipeline.tools.plan.forecast import Estimate, Plan
from pipeline.tools.plan.hardware import GIB, Hardware
from pipeline.tools.plan.workload import Rows, Workload
from tests.conftest import ROOT
from tests.tools.plan.test_cost import CONFIG_7B, MISTRAL_7B

H200 = Hardware("H200", "cuda", 989e12, 4.8e12, 139 * GIB, GIB)
STORIES = Rows(2_000, 100, 7_500.0, 8_192, 90.0, 3.0)
WORK = Workload("test", STORIES, STORIES._replace(num=200, num_contexts=10), 0.25, 0.2, 1_000, 200.0)
PLAN = Plan(config.load(root=ROOT), MISTRAL_7B, WORK, H200).changed(
    {
        "model.max_tokens": 32_768,
        "mask.mode": "token",
        "lora.rank": 8,
        "train.steps": 10,
        "train.batch_examples": 8,
        "train.batch_tokens": 8_192,
        "train.questions_per_document": 1,
        "train.negatives": "graph",
        "train.activation_checkpointing": True,
        "distill.batch_questions": 8,
        "attention.weight": 0.3,
        "attention.layers": "all",
        "attention.queries": "last_prompt",
        "eval.batch_tokens": 65_536,
        "eval.max_new_tokens": 8,
        "teach.batch_tokens": 65_536,
        "teach.top_k": 4,
        "mask.top_k": 4,
    }
)


def train(method: str, changes: dict[str, Any] | None = None, plan: Plan = PLAN) -> Estimate:
    (found,) = [row for row in plan.changed(changes or {}).train() if row.name == f"train@{method}"]
    return found


def row(rows: list[Estimate], name: str) -> Estimate:
    (found,) = [row for row in rows if row.name == name]
    return found


def test_a_masked_view_of_full_length_doubles_a_step_and_a_skipped_one_adds_its_share():
    vanilla = train("vanilla")
    assert vanilla.tokens == 10 * 8 * 7_500
    assert train("focused").flops == pytest.approx(2 * vanilla.flops)
    for mode in ("skip", "drop", "span"):
        assert train("focused", {"mask.mode": mode}).flops / vanilla.flops == pytest.approx(1.21, abs=0.02)


def test_focused_training_without_a_loss_on_the_masked_view_costs_what_vanilla_does():
    alone = {"contrastive.weight": 0.0, "views.masked": 0.0, "views.consistency": 0.0}
    assert train("focused", alone)[1:] == train("vanilla")[1:]
    assert train("focused", alone | {"views.consistency": 1.0}).flops == pytest.approx(2 * train("vanilla").flops)


def test_taught_questions_are_as_many_full_views_more():
    vanilla, taught = train("vanilla"), train("guided", {"attention.weight": 0.0})
    assert taught.tokens == 2 * vanilla.tokens and taught.flops == pytest.approx(2 * vanilla.flops)
    assert taught.peak == pytest.approx(vanilla.peak)  # views are differentiated one forward after the other
    assert train("guided", {"attention.weight": 0.0, "distill.weight": 0.0})[1:] == vanilla[1:]
    assert train("guided", {"attention.weight": 0.0, "distill.labelled": 0.0}).tokens == vanilla.tokens


def test_taught_attention_costs_the_rows_of_its_queries_in_each_full_view():
    none, guided = train("guided", {"attention.weight": 0.0}), train("guided")
    row = 2 * 32 * 4096 * 7_500  # scores of one token, in all heads of all layers
    assert guided.flops - none.flops == pytest.approx(10 * 16 * 4 * row)  # forward, again, and twice backward
    assert guided.note == "taught attention 0.0022 % of the FLOPs" and none.note == ""
    two_layers = train("guided", {"attention.layers": [1, 2], "attention.queries": "question"})
    assert two_layers.flops - none.flops == pytest.approx(10 * 16 * 4 * row * 90 * 2 / 32)
    alone = {"views.masked": 0.0, "contrastive.weight": 0.0, "views.attention": 0.3}
    assert train("focused", alone).flops - train("vanilla").flops == pytest.approx(10 * 8 * 4 * row)


def test_the_teacher_reads_the_kept_chunks_of_all_training_questions():
    (labelled,), (all_of_them,) = (replace(PLAN, work=replace(WORK, num_unlabelled=num)).teach() for num in (0, 2_000))
    read = 2_000 * (2 * (round(0.2 * (7_500 - 93)) + 90) + 16)
    assert labelled.tokens == pytest.approx(read, rel=1e-3)
    assert all_of_them.tokens == pytest.approx(2 * labelled.tokens)
    assert all_of_them.flops == pytest.approx(2 * labelled.flops)
    (half,) = PLAN.changed({"teach.top_k": 2}).teach()
    assert half.tokens == pytest.approx(2_000 * (2 * (round(0.1 * (7_500 - 93)) + 90) + 16), rel=1e-3)
    every = [PLAN.changed({"teach.top_k": top_k}).teach()[0].tokens for top_k in (20, 40)]
    assert every[0] == every[1]  # a context has no more


def test_without_retrieval_at_inference_only_the_full_context_is_read():
    both, alone = (
        row(PLAN.changed({"eval.retrieval_top_k": top_k}).evaluate(), "evaluate@base") for top_k in (4, None)
    )
    assert both.tokens - alone.tokens == pytest.approx(WORK.asked.num * (0.2 * (7_500 - 93) + 90 + 8), rel=0.01)


def test_a_shared_document_divides_the_full_view():
    vanilla, shared = train("vanilla"), train("vanilla", {"train.questions_per_document": 4})
    assert shared.tokens == 10 * 2 * (7_500 + 3 * 93)
    assert train("vanilla", {"train.questions_per_document": 8}).tokens < shared.tokens
    alone = replace(PLAN, work=replace(WORK, train=STORIES._replace(num_contexts=2_000)))
    assert train("vanilla", {"train.questions_per_document": 4}, alone).tokens == vanilla.tokens  # nothing to share


def test_cached_negatives_cost_a_forward_and_hold_one():
    graph, cached = train("focused"), train("focused", {"train.negatives": "cached"})
    assert cached.flops / graph.flops == pytest.approx(4 / 3, abs=0.04)
    assert graph.peak - cached.peak > 15 * 1.9 * GIB  # 16 boundaries of 2 GiB against one
    assert (graph.note, cached.note) == (
        "negatives graph",
        "negatives cached; graph would fit too, and computes less",
    )
    small = replace(PLAN, machine=H200._replace(memory=graph.peak - GIB))
    assert train("focused", {"train.negatives": "cached"}, small).note == "negatives cached"


def test_half_the_peak_of_an_h200_is_in_reach_by_the_plan():
    """performance of the paper's scale: 50 % of the peak at 8k tokens, 0.85 s a row."""
    assert train("vanilla").seconds / 80 == pytest.approx(0.85, rel=0.25)


def test_a_fully_trained_embedding_holds_its_optimizer():
    none, full = (train("vanilla", {"lora.embedding": embedding}).peak for embedding in ("none", "full"))
    assert full - none == 16 * MISTRAL_7B.vocabulary * MISTRAL_7B.hidden


def test_reading_once_for_all_questions_is_cheaper_than_once_for_each():
    params = config.read_yaml(ROOT / "params.yaml")
    quality = config.resolve({**params, "use": {**params["use"], "data": "quality"}}, ROOT)
    plan = replace(PLAN, settings=PLAN.settings.model_copy(update={"data": quality.data}))
    shared = row(plan.evaluate(), "evaluate@base")
    each = replace(WORK, asked=WORK.asked._replace(num_contexts=200))
    alone = row(replace(plan, work=each).evaluate(), "evaluate@base")
    assert alone.flops - shared.flops == pytest.approx(190 * cost.forward_flops(MISTRAL_7B, 7_407), rel=1e-3)
    assert shared.peak > MISTRAL_7B.weight_bytes
    with_longbench = row(plan.changed({"eval.longbench": True}).evaluate(), "evaluate@base")
    best = 200 * cost.forward_flops(MISTRAL_7B, round(0.2 * 7 / 4 * 7_407))  # seven chunks, where views keep four
    assert with_longbench.flops - shared.flops == pytest.approx(best, rel=0.2)


def test_small_blocks_are_hoarded_and_large_ones_are_not():
    hoarding = replace(PLAN, machine=H200._replace(hoard=2.0))
    assert hoarding.train_peak("vanilla") == PLAN.train_peak("vanilla")
    sizes = {"num_hidden_layers": 3, "hidden_size": 128, "intermediate_size": 256, "vocab_size": 2_473}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 32, "sliding_window": None}
    tiny = model_shape.parse(CONFIG_7B | sizes | heads, 4, "tiny")
    one, two = (replace(plan, shape=tiny).train_peak("vanilla") for plan in (PLAN, hoarding))
    assert 1.5 < (two - GIB) / (one - GIB) <= 2.0


@pytest.mark.parametrize("gib", [24, 40, 79, 139])
@pytest.mark.parametrize("negatives", ["graph", "cached"])
@pytest.mark.parametrize("batch_tokens", [1_000_000, 65_536, 8_192])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("section", ["train", "eval", "teach"])
def test_the_advice_fits(gib: int, negatives: str, batch_tokens: int, checkpointing: bool, section: str):
    settings = {
        f"{section}.batch_tokens": batch_tokens,
        "train.negatives": negatives,
        "train.activation_checkpointing": checkpointing,
    }
    plan = replace(PLAN, machine=H200._replace(memory=gib * GIB)).changed(settings)

    def fits(plan: Plan) -> bool:
        return all(row.peak <= plan.machine.memory for row in plan.sections[section]())

    if fits(plan):
        return
    words = plan.advice(section)
    assert words
    for change in words.split(" and "):
        name, value = change.split(" to ")
        assert "max_tokens" in words or not fits(plan)
        plan = plan.changed({name: int(value) if value.isdigit() else {"true": True}.get(value, value)})
    assert fits(plan)


def test_there_is_no_advice_where_the_weights_alone_do_not_fit():
    plan = replace(PLAN, machine=H200._replace(memory=8 * GIB))
    assert [plan.advice(section) for section in ("teach", "train", "eval")] == ["", "", ""]


def test_every_method_is_forecast_in_the_order_of_the_graph():
    rows = [row.name for forecast in PLAN.sections.values() for row in forecast()]
    trained = [f"train@{method}" for method in TRAINED]
    answered = [f"evaluate@{method}" for method in ("base", *TRAINED)]
    assert rows == ["score", "validate", "teach", *trained, *answered, "analyze"]
