"""The adapter: its trainable parameters, what is saved of it, and merging."""

import pytest
import torch
from peft import get_peft_model_state_dict
from transformers import MistralConfig, MistralForCausalLM

from pipeline.model import causal_lm, lora
from tests.model import tiny
from tests.training.test_objective import views

LORA = {"rank": 8, "alpha": 16, "dropout": 0.0, "embedding": "lora", "norms": True, "mask_id": tiny.MASK}


MODES = ("lora", "mask_token", "full", "none")


EMBEDDING = {
    "lora": {f"model.embed_tokens.lora_embedding_{side}.default" for side in "AB"},
    "mask_token": {"model.embed_tokens.token_adapter.trainable_tokens_delta.default"},
    "full": {"model.embed_tokens.modules_to_save.default.weight"},
    "none": set(),
}


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("embedding", MODES)
def test_trainable_parameters_are_exactly_lora_norms_and_what_is_chosen_of_the_embedding(embedding, tied):
    adapted = lora.add_adapter(tiny.network(tied=tied), **LORA | {"embedding": embedding})
    trainable = {name.removeprefix("base_model.model.") for name, p in adapted.named_parameters() if p.requires_grad}
    expected = {"model.norm.modules_to_save.default.weight"} | EMBEDDING[embedding]
    for layer in range(2):
        prefix = f"model.layers.{layer}"
        expected |= {
            f"{prefix}.self_attn.{name}_proj.lora_{side}.default.weight" for name in "qkvo" for side in "AB"
        } | {f"{prefix}.{name}_layernorm.modules_to_save.default.weight" for name in ("input", "post_attention")}
    assert trainable == expected
    attention, rest = lora.parameter_groups(adapted)
    assert len(attention) == 2 * 4 * 2
    assert len(rest) == len(EMBEDDING[embedding]) + 1 + 2 * 2


@pytest.mark.parametrize("embedding", MODES)
def test_without_norms_only_projections_and_embedding_are_trained(embedding):
    adapted = lora.add_adapter(tiny.network(), **LORA | {"embedding": embedding, "norms": False})
    attention, rest = lora.parameter_groups(adapted)
    assert len(attention) == 16
    assert len(rest) == len(EMBEDDING[embedding])


def take_step(adapted, *chosen):
    """One optimizer step on the language-model loss of the views, as training takes it: autocast over a bf16 base."""
    parameters = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=0.05, weight_decay=0.0)
    with torch.autocast("cpu", torch.bfloat16, enabled=adapted.get_base_model().lm_head.weight.dtype == torch.bfloat16):
        for view in chosen:
            logits = causal_lm.logits_at_labels(adapted, causal_lm.hidden_states(adapted, view), view)
            torch.nn.functional.cross_entropy(logits.float(), view.labels_N).backward()
    optimizer.step()


def read(view):
    """Ids of the tokens that bear on some label: all but padding and the last, which nothing follows."""
    return view.input_ids_BL[(view.input_ids_BL != tiny.PAD) & (view.input_ids_BL != tiny.EOS)].unique()


def moved(adapted, before):
    """Names of the trainable parameters that are not as they were."""
    return {name for name, p in adapted.named_parameters() if p.requires_grad and not torch.equal(p, before[name])}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("embedding", MODES)
def test_one_step_moves_every_b_every_norm_and_of_the_embedding_what_is_chosen(embedding, tied, dtype):
    network = tiny.network(tied=tied, dtype=dtype)
    rows, head = network.get_input_embeddings().weight.clone(), network.lm_head.weight.clone()
    adapted = lora.add_adapter(network, **LORA | {"embedding": embedding})
    before = {name: p.clone() for name, p in adapted.named_parameters()}
    take_step(adapted, *views("token"))
    # Of each pair of LoRA matrices the one that starts at zero; of an embedding's that is A.
    zeros = ("lora_B", "lora_embedding_A", "modules_to_save", "trainable_tokens_delta")
    expected = {name for name in before if any(part in name for part in zeros)}
    assert len(expected) == 8 + 5 + (embedding != "none")
    assert moved(adapted, before) == expected
    network = adapted.get_base_model()
    after = network.get_input_embeddings()(torch.arange(48))
    changed = (after != rows).any(dim=-1)
    seen = {"mask_token": {tiny.MASK}, "none": set()}.get(embedding, {int(i) for v in views("token") for i in read(v)})
    assert set(changed.nonzero().flatten().tolist()) == seen
    head_changed = (network.lm_head.weight != head).any(dim=-1).nonzero().flatten().tolist()
    assert head_changed == ([tiny.MASK] if tied and embedding == "mask_token" else [])


def test_without_masks_in_the_views_the_mask_row_stays_as_it_is():
    adapted = lora.add_adapter(tiny.network(), **LORA | {"embedding": "mask_token"})
    before = {name: p.clone() for name, p in adapted.named_parameters()}
    take_step(adapted, views()[0])
    assert not any("trainable_tokens" in name for name in moved(adapted, before))
    assert any("lora_B" in name for name in moved(adapted, before))


def test_trainable_parameters_of_a_bf16_base_are_fp32():
    adapted = lora.add_adapter(tiny.network(dtype=torch.bfloat16), **LORA)
    assert {p.dtype for p in adapted.parameters() if p.requires_grad} == {torch.float32}


MISTRAL_7B = {
    "vocab_size": 32_002, "hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8,
}  # fmt: skip


@pytest.mark.parametrize(
    ("embedding", "num_trainable", "megabytes"),
    [
        ("lora", 7_370_768, 276.9),
        ("mask_token", 7_086_080, 14.2),
        ("full", 138_162_176, 276.3),
        ("none", 7_081_984, 14.2),
    ],
)
def test_what_is_saved_of_mistral_7b(embedding, num_trainable, megabytes):
    """With <mask> and <pad> added, rank 8, bf16. `mask_token` is to stay below 20 MB; fp32 would be 28 MB."""
    with torch.device("meta"):
        network = MistralForCausalLM._from_config(MistralConfig(**MISTRAL_7B), dtype=torch.bfloat16)
        adapted = lora.add_adapter(network, **LORA | {"embedding": embedding, "mask_id": 32_000})
    assert sum(p.numel() for p in adapted.parameters() if p.requires_grad) == num_trainable
    saved = get_peft_model_state_dict(
        adapted,
        state_dict=lora.state_to_save(adapted),
        save_embedding_layers=lora.saves_base_embedding(adapted),
    )
    size = sum(tensor.numel() * tensor.element_size() for tensor in saved.values())
    assert size / 1e6 == pytest.approx(megabytes, abs=0.05)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("embedding", MODES)
def test_a_merged_model_has_the_adapters_logits_and_no_trace_of_it(embedding, tied):
    adapted = lora.add_adapter(tiny.network(tied=tied), **LORA | {"embedding": embedding}).eval()
    for _ in range(2):
        take_step(adapted, *views("token"))
    view = views("token")[1]
    with torch.no_grad():
        before = adapted(input_ids=view.input_ids_BL).logits
        merged = lora.merge(adapted)
        after = merged(input_ids=view.input_ids_BL).logits
    torch.testing.assert_close(after, before, rtol=0, atol=1e-4)
    assert (before - tiny.network(tied=tied)(input_ids=view.input_ids_BL).logits).abs().max() > 1e-2
    assert {name for name, _ in merged.named_parameters()} == {
        name for name, _ in tiny.network(tied=merged.config.tie_word_embeddings).named_parameters()
    }
    assert merged.config.tie_word_embeddings == (tied and embedding in ("mask_token", "none"))
