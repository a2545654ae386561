"""Merges base and adapter into one plain transformers model with its tokenizer.

    python -m pipeline.tools.merge METHOD --out FOLDER

Weights of any type are merged in fp32 and rounded once. The written model is loaded again, as anybody would load it,
and its logits on a few prompts are compared with the adapter's before the folder appears. This is not a stage, because
nothing in the graph reads the merged model.
"""

import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from pipeline.common import base_card, files, tables
from pipeline.common.device import device
from pipeline.model import loading, lora
from pipeline.runtime import config
from pipeline.runtime.errors import ArtifactError, ConfigError, NumericError
from pipeline.runtime.main import run
from pipeline.runtime.methods import TRAINED
from pipeline.tools import arguments, lineage
from pipeline.training import model_card

NUM_PROMPTS, PROMPT_TOKENS = 4, 512
TOLERANCE = 1e-4


def main() -> None:
    """Merge, compare, then move the folder to its place, so that it is whole or not there.

    Raises:
        ConfigError: the method is unknown, or the folder is not empty.
        ArtifactError: adapter or base are missing or damaged, the adapter was trained over another base, or the base is
            quantized.
        ResourceError: the disk is too small.
        NumericError: the merged model's logits are not the adapter's.
    """
    parser = arguments.ArgumentParser(prog="python -m pipeline.tools.merge", description=__doc__)
    with_adapter = f"a method with an adapter: {', '.join(TRAINED)}"
    parser.add_argument("method", type=arguments.one_of(TRAINED), help=with_adapter)
    parser.add_argument("--out", type=Path, required=True, help="the folder to make; it may exist if it is empty")
    asked = parser.parse_args(sys.argv[1:])
    method, out = asked.method, asked.out
    _refuse_occupied(out)
    settings = config.load("base").model
    card = base_card.read_card()
    loading.find_adapter(method, card)
    readme = lineage.card(method, merged=True)
    _refuse_base(loading.find_base(settings), out)
    prompts = [_fixed_prompt(card), *_real_prompts(card)]
    adapted: Any = loading.load_method(method, settings)
    evaluated = _logits(adapted, prompts)
    with adapted.disable_adapter():
        change = _difference(_logits(adapted, prompts), evaluated)
    exact = _logits(adapted.float(), prompts)
    with files.workspace(out.name, out.parent) as folder:
        written = folder / "merged"
        num_parameters = _write(adapted, getattr(torch, settings.dtype), card, written)
        del adapted  # the second copy needs its memory
        loaded: Any = AutoModelForCausalLM.from_pretrained(written, trust_remote_code=False)
        found = _logits(loaded.to(device()).eval(), prompts)
        difference, allowed = _difference(found, exact), tolerance(evaluated, exact)
        if not difference <= allowed:  # NaN is not
            raise NumericError(
                f"{out}: logits of the merged model differ by {difference:.2g} from the adapter's, allowed is "
                f"{allowed:.2g}; nothing was kept: use the adapter as it is"
                + ("" if settings.dtype == "float32" else ", or train it with model.dtype float32")
            )
        files.write_text(written / model_card.README, readme)
        _refuse_occupied(out)
        files.put(written, out)
    same = torch.cat([one.argmax(-1) == other.argmax(-1) for one, other in zip(found, evaluated, strict=True)])
    print(
        f"merge: {method} in {out}, {num_parameters:,} parameters; logits at {len(same):,} positions of "
        f"{len(prompts)} prompts ({len(prompts) - 1} from {tables.FULL_VIEWS}) differ by at most {difference:.2g} from "
        f"the adapter's in fp32 (allowed {allowed:.2g}; the adapter itself changes them by {change:.2g}), the "
        f"likeliest token is the same at {same.float().mean():.1%}; next: "
        f"AutoModelForCausalLM.from_pretrained('{out}') or `vllm serve {out}`"
    )


def tolerance(evaluated: Sequence[Tensor], exact: Sequence[Tensor]) -> float:
    """Tell how far the merged model's logits may lie from the adapter's in fp32.

    At least 1e-4 of the largest logit, because the rounding of fp32 grows with depth and logits: SmolLM2 with 135
    million parameters (30 layers, logits up to 34) differs by 1.2e-3, of which 0.9e-3 is the distance of its adapter
    from fp64. Over a bf16 base three times the error of bf16, which depends on the model too, so it is measured:
    `evaluated` are the adapter's logits in the base's type, `exact` those in fp32. The largest error of the merged
    model was .55 to 1.6 times that of the adapter (random models of 2 to 32 layers and the small base), and its root
    mean square .89 to 1.11 times.
    """
    largest = max(float(logits.abs().max()) for logits in exact)
    return max(TOLERANCE, TOLERANCE * largest, 3 * _difference(evaluated, exact))


def _refuse_occupied(out: Path) -> None:
    if out.is_dir() and not any(out.iterdir()):
        return
    if out.exists() or out.is_symlink():
        raise ConfigError(f"{out}: there is something already, and it is not overwritten; remove it, or name another")


def _refuse_base(source: Path, out: Path) -> None:
    """Refuse a base whose weights are quantized, and a disk that has no room for a second copy of it."""
    if getattr(AutoConfig.from_pretrained(source, trust_remote_code=False), "quantization_config", None) is not None:
        raise ArtifactError(
            f"{source}: its weights are quantized, and an adapter merged into rounded weights is not the one that was "
            "evaluated; use the adapter as it is, or train it over the unquantized base"
        )
    needed = sum(path.stat().st_size for path in source.glob("*.safetensors"))
    files.require_space(out, needed)


def _fixed_prompt(card: base_card.BaseCard) -> list[int]:
    """Make a prompt of ids from all over the vocabulary and <mask>, because the row of <mask> is merged too."""
    spread = [7919 * place % card.vocab_size for place in range(62)]
    return [*([] if card.bos_id is None else [card.bos_id]), *spread, card.mask_id]


def _real_prompts(card: base_card.BaseCard) -> list[list[int]]:
    """Take the first tokens of the first prompts of the data; none where no views of this base's tokenizer exist."""
    if not tables.FULL_VIEWS.path.is_file():
        return []
    if tables.metadata(tables.FULL_VIEWS).get("tokenizer_sha256") != card.tokenizer_sha256:
        return []
    rows = tables.scan(tables.FULL_VIEWS, ["input_ids", "prompt_end"])
    return [list(row["input_ids"][: min(row["prompt_end"], PROMPT_TOKENS)]) for row in islice(rows, NUM_PROMPTS)]


def _logits(network: Any, prompts: Sequence[Sequence[int]]) -> list[Tensor]:
    """Compute the logits of each prompt, shape (tokens, vocabulary), fp32."""
    with torch.inference_mode():
        return [
            network(input_ids=torch.tensor([prompt], device=device()), use_cache=False).logits[0].float().cpu()
            for prompt in prompts
        ]


def _difference(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The largest difference between two logits; NaN where one of them is NaN."""
    return float(torch.stack([(one - other).abs().max() for one, other in zip(found, expected, strict=True)]).max())


def _write(adapted: PeftModel, dtype: torch.dtype, card: base_card.BaseCard, folder: Path) -> int:
    """Write the merged model in this type, and its tokenizer. Returns the number of its parameters."""
    merged: Any = lora.merge(adapted)
    merged.to(dtype)
    eos = card.eos_ids if len(card.eos_ids) > 1 else card.eos_id
    for settings in (merged.config, merged.generation_config):
        settings.bos_token_id, settings.eos_token_id, settings.pad_token_id = card.bos_id, eos, card.pad_id
    merged.config.mask_token_id = card.mask_id
    # Our evaluation bans both too: neither is ever an answer.
    merged.generation_config.suppress_tokens = sorted((card.mask_id, card.pad_id))
    with loading.saving():
        merged.save_pretrained(folder)
    loading.copy_tokenizer(card, folder)
    return int(merged.num_parameters())


if __name__ == "__main__":
    run(main)
