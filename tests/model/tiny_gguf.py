"""A random Llama of two layers in a GGUF file, as llama.cpp's converter writes it."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from tests.views import letters

HEADS, GROUPS, VOCABULARY = 4, 2, 400
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip


def network() -> PreTrainedModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        num_key_value_heads=GROUPS,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        rms_norm_eps=1e-5,
        initializer_range=0.2,
    )
    return LlamaForCausalLM(config).eval()


def write(path: Path, kind: gguf.GGMLQuantizationType, template: str | None = TEMPLATE) -> dict[str, torch.Tensor]:
    """Write the file; return the weights that it holds, under the names of transformers."""
    made = network()
    writer: Any = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(512)
    writer.add_embedding_length(64)
    writer.add_block_count(2)
    writer.add_feed_forward_length(96)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(GROUPS)
    writer.add_rope_dimension_count(64 // HEADS)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(VOCABULARY)
    _add_tokenizer(writer, template)
    held = {}
    for name, tensor in made.state_dict().items():
        if name == "lm_head.weight":
            continue
        values = tensor.numpy()
        if values.ndim == 2:
            quantized = gguf.quants.quantize(_permuted(name, values), kind)
            back = gguf.quants.dequantize(quantized, kind)
            held[name] = torch.from_numpy(_permuted(name, back, undo=True).astype(np.float32))
            writer.add_tensor(_name(name), quantized, raw_dtype=kind)
        else:
            held[name] = tensor
            writer.add_tensor(_name(name), values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return held


def _add_tokenizer(writer: Any, template: str | None) -> None:
    tokenizer = letters.tokenizer()
    vocabulary = tokenizer.get_vocab()
    pieces = [*sorted(vocabulary, key=vocabulary.__getitem__)]
    pieces += [f"unused{number}" for number in range(VOCABULARY - len(pieces))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(pieces)
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_token_types([control if piece in letters.CONTROLS else normal for piece in pieces])
    writer.add_token_merges([" ".join(pair) for pair in letters.merges()])
    writer.add_bos_token_id(letters.BOS)
    writer.add_eos_token_id(letters.EOS)
    if template is not None:
        writer.add_chat_template(template)


def _name(name: str) -> str:
    parts = name.removeprefix("model.").removesuffix(".weight").split(".")
    if parts[0] != "layers":
        return {"embed_tokens": "token_embd", "norm": "output_norm"}[parts[0]] + ".weight"
    return f"blk.{parts[1]}.{NAMES['.'.join(parts[2:])]}.weight"


def _permuted(name: str, values: Any, undo: bool = False) -> Any:
    """llama.cpp rotates neighbouring rows of queries and keys, transformers rows that are half a head apart."""
    heads = {"q_proj": HEADS, "k_proj": GROUPS}.get(name.split(".")[-2])
    if heads is None:
        return values
    half = len(values) // heads // 2
    shape = (heads, half, 2, -1) if undo else (heads, 2, half, -1)
    return values.reshape(shape).swapaxes(1, 2).reshape(values.shape)
