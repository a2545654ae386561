"""The LoRA adapter: which parameters it trains, what is saved of it, and how it is merged into the base.

What it trains is found by walking the model, because every family names its parts otherwise: the linear layers of each
layer's attention, all norms that have weights, and the input embedding. A part that cannot be trained is an error, and
so is a difference between what was found and what PEFT made trainable. What an adapter trains of the embedding is a
choice (`lora.embedding`); a test holds the exact set of trainable parameters of every choice, for models whose lm_head
is tied to the embedding too.
"""

import inspect
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.utils import ModulesToSaveWrapper
from torch import Tensor
from torch.nn import Embedding, Linear, Module, Parameter
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from pipeline.model import causal_lm
from pipeline.model.causal_lm import unwrap
from pipeline.runtime.errors import ArtifactError, one_line

_INNER = re.compile(r"\.(?:lora_\w+|modules_to_save|token_adapter|base_layer|original_module)\.")
"""Begins the part of a parameter's name that PEFT added."""
_HIDDEN = "nobody can read or mask its attention, which is none of transformers' implementations"
TIED = "Model has `tie_word_embeddings=True` and a tied layer is part of the adapter"


class Parts(NamedTuple):
    """Names of the modules of a base that an adapter can train."""

    attention: list[str]
    """The linear layers of attention: query, key, value and output projections, fused or not."""
    norms: list[str]
    """The norms that have weights, those of queries and keys and of the MLP among them."""
    embedding: str
    """The input embedding."""

    @property
    def projections(self) -> list[str]:
        """The last words of the names of attention's linear layers."""
        return sorted({name.rpartition(".")[2] for name in self.attention})


def parts(network: PreTrainedModel) -> Parts:
    """Find the parts by walking the model; on the meta device, which costs nothing, a forward tests it too.

    Raises:
        ArtifactError: the model is none of this shape. A layer has no norm, or not one attention, or its attention
            holds weights that are neither of a linear layer nor of a norm, cannot be read or masked, or looks ahead; or
            the model takes no position ids, or makes its logits otherwise than of its last layer.
    """
    kind = network.config.model_type

    def refusal(found: str) -> ArtifactError:
        return ArtifactError(
            f"a model of type {kind!r} cannot be trained: {found}; set model.source to a decoder whose layers each "
            "have one attention with linear projections, such as Llama, Mistral, Qwen, Gemma or Phi"
        )

    if "position_ids" not in inspect.signature(type(network.base_model).forward).parameters:
        raise refusal("its forward takes no position ids")
    name_of = {module: name for name, module in network.named_modules()}
    norms = [module for module in network.modules() if _is_norm(module) and _own(module)]
    attention: list[Module] = []
    if not (layers := causal_lm.layers(network)):
        raise refusal(f"it has no list of {network.config.num_hidden_layers} layers")
    for number, layer in enumerate(layers, start=1):
        inner = [module for module in layer.children() if "Attention" in type(module).__name__]
        if len(inner) != 1:
            found = ", ".join(type(module).__name__ for module in layer.children())
            raise refusal(f"layer {number} has {len(inner)} attentions among its parts {found}")
        if any(getattr(module, "is_causal", True) is False for module in inner[0].modules()):
            raise refusal("its tokens attend to later ones")
        projections = [module for module in inner[0].modules() if isinstance(module, Linear | Conv1D)]
        covered = {id(own) for module in (*projections, *norms) for own in _own(module).values()}
        left = [name for name, own in inner[0].named_parameters() if id(own) not in covered]
        if left or not projections:
            raise refusal(f"in the attention of layer {number}, {', '.join(left or ['all'])} is of no linear layer")
        if not any(map(_is_norm, layer.modules())):
            raise refusal(f"layer {number} has no norm")
        attention += projections
    embedding = network.get_input_embeddings()
    if not isinstance(embedding, Embedding):
        raise refusal(f"its input embedding is a {type(embedding).__name__}")
    hidden_1D = torch.zeros((1, network.config.hidden_size), device=network.device, dtype=network.dtype)
    try:
        causal_lm.logits(network, hidden_1D)
    except (AttributeError, KeyError):
        raise refusal("its logits cannot be made of hidden states alone") from None
    if network.device.type == "meta":
        try:
            is_read = causal_lm.lets_attention_be_read(network)
        except Exception as error:  # whatever a family's own code meets
            hidden = None if network._supports_attention_backend else _HIDDEN
            raise refusal(hidden or f"a forward fails ({one_line(error)})") from None
        if not is_read:
            raise refusal(_HIDDEN)
    return Parts([name_of[each] for each in attention], [name_of[each] for each in norms], name_of[embedding])


def _is_norm(module: Module) -> bool:
    return "Norm" in type(module).__name__


def _own(module: Module) -> dict[str, Parameter]:
    """Return the parameters of the module itself, without those of its children."""
    return dict(module.named_parameters(recurse=False))


def _endings(names: Iterable[str], network: Module, *, at_dots: bool) -> list[str]:
    """Return the shortest endings of the names by which PEFT finds exactly these modules of the network.

    PEFT compares the ends of names: for LoRA from a dot on (`at_dots`), for modules trained whole anywhere.
    """
    dot = "." if at_dots else ""
    chosen, every = set(names), [dot + name for name, _ in network.named_modules()]
    found: list[str] = []
    for name in sorted(chosen):
        if any((dot + name).endswith(dot + ending) for ending in found):
            continue
        words = name.split(".")
        every_ending = (".".join(words[start:]) for start in reversed(range(len(words))))
        found.append(
            next(
                ending
                for ending in every_ending
                if {one.removeprefix(dot) for one in every if one.endswith(dot + ending)} <= chosen
            )
        )
    return sorted(found)


def add_adapter(
    network: PreTrainedModel,
    *,
    rank: int,
    alpha: int,
    dropout: float,
    embedding: Literal["lora", "mask_token", "full", "none"],
    norms: bool,
    mask_id: int,
) -> PeftModel:
    """Add LoRA to the projections of attention; with `norms`, all norms are trained whole (paper).

    lm_head is frozen, also where it is tied to the embedding; only `mask_token` moves the tied row with the other.
    Trainable parameters are fp32 whatever the base's type, because small steps vanish in bf16.

    Args:
        embedding: what is trained of the input embedding. `lora`: LoRA on all of it (paper). `mask_token`: the row of
            `mask_id` alone; where no view contains <mask>, its gradient is zero and it stays as it is. `full`: the
            whole matrix. `none`: nothing.

    Raises:
        ArtifactError: as `parts`, or PEFT cannot train them.
    """
    found = parts(network)
    with_lora = [*found.attention, *([found.embedding] if embedding == "lora" else [])]
    whole = [*(found.norms if norms else []), *([found.embedding] if embedding == "full" else [])]
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=_endings(with_lora, network, at_dots=True),
        modules_to_save=_endings(whole, network, at_dots=False) or None,
        trainable_token_indices=[mask_id] if embedding == "mask_token" else None,
        fan_in_fan_out=any(isinstance(network.get_submodule(name), Conv1D) for name in found.attention),
    )
    with warnings.catch_warnings():
        # A tied lm_head is meant to stay as it is, just like an untied one; `merge` unties it.
        warnings.filterwarnings("ignore", TIED, UserWarning)
        try:
            adapted = get_peft_model(network, config)
        except ValueError as error:
            raise ArtifactError(
                f"PEFT cannot train a model of type {network.config.model_type!r} ({one_line(error)}); set "
                "model.source to another one"
            ) from None
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    asked = {*with_lora, *whole, *([found.embedding] if embedding == "mask_token" else [])}
    if differing := asked ^ _counts(adapted, trained=True).keys():
        raise ArtifactError(
            f"PEFT does not train exactly what it was asked to of this {network.config.model_type} model, the "
            f"difference is {', '.join(sorted(differing))}; choose another base, or other values of lora.embedding and "
            "lora.norms"
        )
    return adapted


def _counts(adapted: PeftModel, *, trained: bool) -> Counter[str]:
    """Count the parameters that are (not) trained of each module, by the module's name in the base."""
    counts: Counter[str] = Counter()
    for name, parameter in unwrap(adapted).named_parameters():
        if parameter.requires_grad == trained:
            counts[_INNER.split(name)[0] if _INNER.search(name) else name.rpartition(".")[0]] += parameter.numel()
    return counts


def report(found: Parts, adapted: PeftModel) -> dict[str, Any]:
    """List what an adapter trains of the parts, and what stays as it is; `*` stands for the numbers of layers.

    For each part: its trained modules, how many they are, out of how many, and their trained parameters.
    """
    counts = _counts(adapted, trained=True)

    def part(names: list[str]) -> dict[str, Any]:
        chosen = [name for name in names if name in counts]
        return {
            "modules": _patterns(chosen),
            "trained": len(chosen),
            "of": len(names),
            "parameters": sum(counts[name] for name in chosen),
        }

    return {
        "attention": part(found.attention),
        "norms": part(found.norms),
        "embedding": part([found.embedding]),
        "not_trained": _patterns(_counts(adapted, trained=False).keys() - counts.keys()),
    }


def _patterns(names: Iterable[str]) -> list[str]:
    return sorted({re.sub(r"\.\d+(?=\.|$)", ".*", name) for name in names})


def state_to_save(adapted: PeftModel, state: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Return the model's state (or the given one) in the type of the frozen weights: half the bytes for a bf16 base.

    PEFT loads norms, embedding and token rows into copies of the base's own modules, so it rounds them to the base's
    type anyway. The LoRA matrices lose at most a 2^-9th of each value, as in a forward in bf16. Evaluation uses the
    saved values. Checkpoints keep the fp32 state instead.
    """
    dtype = causal_lm.head(adapted).weight.dtype
    found = adapted.state_dict() if state is None else state
    return {name: tensor.to(dtype) for name, tensor in found.items()}


def saves_base_embedding(adapted: PeftModel) -> bool:
    """Return whether the saved adapter must hold the base's embedding: LoRA was trained on top of its <mask> row."""
    return isinstance(unwrap(adapted).get_input_embeddings(), LoraLayer)


def merge(adapted: PeftModel) -> PreTrainedModel:
    """Merge the adapter into the base's weights, in place, and return the plain transformers model.

    Where the embedding was trained, a tied lm_head becomes a matrix of its own, because it must not move with it.
    """
    network = unwrap(adapted)
    trained = isinstance(network.get_input_embeddings(), LoraLayer | ModulesToSaveWrapper)
    if network.config.tie_word_embeddings and trained:
        head = network.get_output_embeddings()
        head.weight = Parameter(head.weight.detach().clone(), requires_grad=False)
        network.config.tie_word_embeddings = False
    merged: PreTrainedModel = adapted.merge_and_unload()
    return merged


def parameter_groups(network: Module) -> tuple[list[Parameter], list[Parameter]]:
    """Return the trainable parameters: first LoRA on the attention projections, then embedding and norms."""
    attention: list[Parameter] = []
    rest: list[Parameter] = []
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            (attention if ".lora_A." in name or ".lora_B." in name else rest).append(parameter)
    return attention, rest
