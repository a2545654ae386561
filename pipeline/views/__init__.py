"""The method's input: prompts, the full view x and the masked view x'."""
