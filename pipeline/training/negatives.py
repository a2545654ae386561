"""train.negatives: whether a contrastive batch is kept whole until one backward, or its forwards are computed twice."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.common import device_memory
from pipeline.runtime.errors import ArtifactError, ConfigError
from pipeline.runtime.sections import Train
from pipeline.training import memory, shapes

BYTES = {"float32": 4, "bfloat16": 2}


def retained(
    train: Train,
    base_config: Mapping[str, Any],
    dtype: str,
    steps: Sequence[Sequence[tuple[int, int]]],
    num_trainable: int,
    kind: str,
    num_processes: int = 1,
) -> bool:
    """Whether the graphs are kept. `auto` keeps them when the largest step fits into the memory of the device `kind`.

    The memory there is counts, not what is free of it now: the same machine decides the same each time. Processes on
    one CPU share it. Of a base whose cost is not known `auto` keeps nothing, with a line.

    Args:
        base_config: config.json of the base.
        dtype: model.dtype.
        steps: (rows, tokens) of each forward of each step, in the process that has most.
    """
    if train.negatives != "auto":
        return train.negatives == "graph"
    try:
        shape = shapes.read(dict(base_config), BYTES[dtype], "the base")
    except ArtifactError as error:
        print(f"train.negatives auto is cached here: {error}", file=sys.stderr)
        return False
    of = kind.split(":")[0]
    largest = max(steps, key=lambda forwards: sum(rows * tokens for rows, tokens in forwards))
    needed = memory.process_peak_bytes(
        shape,
        [memory.Pack(rows, tokens) for rows, tokens in largest],
        retained=True,
        checkpointing=train.activation_checkpointing,
        num_trainable=num_trainable,
        overhead=device_memory.OVERHEAD[of],
        hoard=device_memory.HOARD[of],
    )
    return needed <= device_memory.memory(kind) / (num_processes if of == "cpu" else 1)


def refuse_graph_in_shards(train: Train) -> None:
    """Raises ConfigError: the layers are sharded, and train.negatives insists on one graph."""
    if train.negatives == "graph":
        raise ConfigError(
            "train.negatives is graph, but the layers are sharded over processes, which gather them anew for each "
            "backward; set it to cached or auto"
        )
