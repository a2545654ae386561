"""A tiny random model of each family that a test holds, by the name that the table of docs/bases.md gives it.

python -m tests.model.families prints that table.
"""

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from pipeline.model import lora
from tests.model import tiny

SHAPE: dict[str, Any] = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "initializer_range": 0.2,
}  # fmt: skip
WINDOW = {"sliding_window": 24}
BY_LAYER = {**WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
ROPE = {"rope_type": "llama3", "rope_theta": 10_000.0, "factor": 2.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "Mistral, a window": ("mistral", {"num_key_value_heads": 4, **WINDOW}),
    "Llama 3, tied": (
        "llama",
        {"tie_word_embeddings": True, "rope_parameters": {**ROPE, "original_max_position_embeddings": 64}},
    ),
    "Qwen2, no BOS": ("qwen2", {}),
    "Qwen3": ("qwen3", {"head_dim": 8}),
    "Gemma 2": ("gemma2", {"head_dim": 8, "query_pre_attn_scalar": 8, "final_logit_softcapping": 3.0, **BY_LAYER}),
    "Gemma 3": ("gemma3_text", {"head_dim": 8, "query_pre_attn_scalar": 8, **BY_LAYER}),
    "Phi-3": ("phi3", {}),
    "OLMo2": ("olmo2", {}),
    "SmolLM3": ("smollm3", {"no_rope_layers": [1, 0]}),
    "Granite": ("granite", {"logits_scaling": 4.0, "embedding_multiplier": 3.0, "attention_multiplier": 0.3}),
    "Cohere": ("cohere", {"logit_scale": 0.5}),
    "Mixtral": ("mixtral", {"num_local_experts": 4}),
    "Qwen3 MoE": (
        "qwen3_moe",
        {"head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    ),
    "StableLM": ("stablelm", {"qk_layernorm": True, "use_qkv_bias": True}),
    "Nemotron": ("nemotron", {"head_dim": 4}),
    "GPT-2": ("gpt2", {}),
    "GPT-NeoX": ("gpt_neox", {}),
}


def config(name: str, **changes: Any) -> Any:
    kind, own = FAMILIES[name]
    ids = {"pad_token_id": tiny.PAD, "bos_token_id": tiny.BOS, "eos_token_id": tiny.EOS}
    return AutoConfig.for_model(kind, **{"vocab_size": 48, **SHAPE, **ids, **own, **changes})


def network(
    name: str, implementation: str | None = None, *, experts: str | None = None, **changes: Any
) -> PreTrainedModel:
    """A model of the family, in evaluation mode, whose norms are not all ones."""
    torch.manual_seed(0)
    made: PreTrainedModel = AutoModelForCausalLM.from_config(
        config(name, **changes), attn_implementation=implementation, experts_implementation=experts
    )
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return made.eval()


def table_row(name: str, trained: dict[str, Any]) -> str:
    """The row of docs/bases.md, of what lora.report says."""
    kind, _ = FAMILIES[name]
    projections = " ".join(f"`{pattern.rpartition('.')[2]}`" for pattern in trained["attention"]["modules"])
    shares = [f"{trained[part]['trained']} of {trained[part]['of']}" for part in ("attention", "norms", "embedding")]
    return f"| {name} | `{kind}` | {projections} | {' | '.join(shares)} |"


def main() -> None:
    print("| Family | `model_type` | Projections with LoRA | of them trained | norms | embedding |")
    print("|:--|:--|:--|--:|--:|--:|")
    for name in FAMILIES:
        made = network(name)
        found = lora.parts(made)
        adapted = lora.add_adapter(made, rank=4, alpha=8, dropout=0.0, embedding="lora", norms=True, mask_id=tiny.MASK)
        print(table_row(name, lora.report(found, adapted)))


if __name__ == "__main__":
    main()
