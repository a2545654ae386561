"""Every other model type of AutoModelForCausalLM, as a random model of two layers: does it run, or why is it refused?

    python -m tests.model.survey [MODEL_TYPE ...]

What runs has logits, generated answers and answers over a shared context that are those of the model's own forward,
attention that is read in every layer, and a gradient for every trained part.
"""

import sys
import warnings

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from pipeline.model import causal_lm, generation, loading, lora, prefix_cache
from pipeline.model.attention_rows import AttentionRows
from pipeline.model.prefix_cache import Suffix
from pipeline.runtime.errors import PipelineError, one_line
from tests.model import families, tiny
from tests.model.test_families import LORA, greedy, rows

QUESTIONS = [[11, 12], [13, 14, 15]]
SIZES = [{}, {"head_dim": 4}, {"num_key_value_heads": 4}]
"""Sizes beside families.SHAPE: some families need their heads' width said, some know no groups of heads."""
IDS = {"pad_token_id": tiny.PAD, "bos_token_id": tiny.BOS, "eos_token_id": tiny.EOS}


def outcome(kind: str) -> str:
    """`runs` with the numbers of projections and norms, what differs, or the refusal, at the first sizes that fit."""
    for size in SIZES:
        found = _outcome(kind, size)
        if not any(words in found for words in ("not tried", "cannot be built", "a forward fails")):
            return found
    return found


def _outcome(kind: str, size: dict[str, int]) -> str:
    try:
        config = AutoConfig.for_model(kind, **{"vocab_size": 48, **families.SHAPE, **size, **IDS})
        if config.sub_configs:
            return "refused: not of text alone"
        causal_lm.windows(config)
        network = loading.skeleton(config)
        found = lora.parts(network)
        lora.add_adapter(network, **LORA, embedding="lora")
    except PipelineError as error:
        return f"refused: {error}"
    except Exception as error:  # a family that cannot be made so small, or has other names for its sizes
        return f"not tried: {one_line(error)}"
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(config).eval()
    if wrong := differences(network):
        return f"DIFFERS: {', '.join(wrong)}"
    return f"runs: {len(found.attention)} projections ({', '.join(found.projections)}), {len(found.norms)} norms"


def differences(network: torch.nn.Module) -> list[str]:
    """What is not as in the model's own forward; nothing where all is well. The model gets an adapter."""
    inputs, (context, other) = rows()
    read = AttentionRows(inputs, inputs.row_E, inputs.prompt_end_E - 1, lambda weights_NHL, _: weights_NHL)
    with torch.no_grad():
        logits_NV = causal_lm.logits_at_labels(
            network, causal_lm.hidden_states(network, inputs, attention=read), inputs
        )
        own = [network(input_ids=torch.tensor([row])).logits[0, -4:-1] for row in (context, other)]
    answers = [greedy(network, [*context, *question], 3) for question in QUESTIONS]
    settings = {"eos_ids": [-1], "max_new_tokens": 3, "banned_ids": [tiny.PAD, tiny.MASK], "batch_tokens": 1_000}
    prompts = [[*context, *question] for question in QUESTIONS]
    batched = generation.generate(network, prompts, pad_id=tiny.PAD, **settings)
    shared = prefix_cache.answer(network, context, [Suffix(question) for question in QUESTIONS], **settings)
    adapted = lora.add_adapter(network, **LORA, embedding="lora")
    ids = torch.tensor([context])
    adapted(input_ids=ids, labels=ids).loss.backward()
    checks = {
        "logits": torch.allclose(logits_NV, torch.cat(own), rtol=1e-4, atol=1e-4),
        "attention": len(read.reduced) == network.config.num_hidden_layers,
        "answers": batched == answers,
        "answers over a shared context": [one.output_ids for one in shared] == answers,
        "gradients": all(parameter.grad is not None for parameter in adapted.parameters() if parameter.requires_grad),
    }
    return [name for name, is_right in checks.items() if not is_right]


def main() -> None:
    warnings.simplefilter("ignore")
    known = {kind for kind, _ in families.FAMILIES.values()}
    for kind in sys.argv[1:] or [kind for kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if kind not in known]:
        print(f"{kind} | {outcome(kind)}", flush=True)


if __name__ == "__main__":
    main()
