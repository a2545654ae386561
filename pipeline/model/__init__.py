"""The causal language model: loading, LoRA, batches, decoding and processes."""
