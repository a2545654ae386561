"""TRL's SFTTrainer doing a vanilla step on given rows. TRL is no dependency of ours: `pip install trl`.

What runs is `SFTTrainer.training_step` as its training loop calls it: its patched forward, its loss (a head fused with
the cross-entropy), its metrics (entropy, accuracy), accelerate's backward. Rows, labels and the adapter are those of
our own step; data preparation, clipping and the optimizer are left out on both sides.

TRL 1.16 scores label tokens only where it has Triton, on GPUs; on a CPU it scores every token. Its GPU's way is what
matters, so it is measured too, by telling that one choice of TRL's (`trl.trainer.utils._use_triton`) that it has
Triton; its kernels still know that they have not.
"""

import contextlib
import copy
import io
import tempfile
import warnings
from collections.abc import Callable
from typing import Any
from unittest import mock

from torch import Tensor

from pipeline.training import objective

AS_IT_IS, AT_LABELS = "vanilla, TRL on a CPU (scores every token)", "vanilla, TRL's way on a GPU (label tokens)"


def make(encoder: objective.Encoder, given: dict[str, Tensor]) -> dict[str, Callable[[], None]]:
    """The steps, on a copy of the model, for TRL replaces its forward; gradients go to `encoder`'s parameters."""
    from datasets import Dataset
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast
    from trl import SFTConfig, SFTTrainer
    from trl.trainer import utils

    network: Any = copy.deepcopy(encoder.network)
    own = dict(encoder.network.named_parameters())
    theirs = dict(network.named_parameters())
    # SFTTrainer wants a tokenizer although the rows are token ids already.
    words = {"<pad>": 0, "<s>": 1, "</s>": 2}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="<pad>")), pad_token="<pad>", eos_token="</s>"
    )
    rows = [
        {"input_ids": ids.tolist(), "labels": labels.tolist()}
        for ids, labels in zip(given["input_ids"], given["labels"], strict=True)
    ]
    warnings.filterwarnings("ignore", "`gradient_checkpointing` is deprecated", FutureWarning)  # TRL 1.16 asks by it
    settings = SFTConfig(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=len(rows),
        max_length=None,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=given["input_ids"].device.type == "cpu",
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    with contextlib.redirect_stdout(io.StringIO()):
        trainer = SFTTrainer(network, settings, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    trainer.current_gradient_accumulation_steps = 1  # the training loop sets it
    num_labels = (given["labels"] != -100).sum()

    def step() -> None:
        network.zero_grad()
        trainer.training_step(trainer.model, dict(given), num_items_in_batch=num_labels)
        for name, parameter in theirs.items():
            own[name].grad = parameter.grad

    def step_at_labels() -> None:
        with mock.patch.object(utils, "_use_triton", lambda device: True):
            step()

    return {AS_IT_IS: step, AT_LABELS: step_at_labels}
