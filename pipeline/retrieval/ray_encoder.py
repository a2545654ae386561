"""Texts are encoded on the actors of a Ray cluster (Ray Data): one network and, on a CPU, one thread per actor.

Actors embed the batches of `TextEncoder.batches` with `TextEncoder.embed`, as one machine does: on processors of
the same kind the bytes are the same, however many actors there are.
"""

import os
import pickle
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from pipeline.common import cluster
from pipeline.retrieval.checkpoint import digests
from pipeline.retrieval.encoder import EncoderBatch, TextEncoder, What, number_format
from pipeline.runtime.errors import ArtifactError, ConfigError, PipelineError

BLOCKS_PER_ACTOR = 8  # enough that slower actors get fewer
MAX_BATCHES_PER_BLOCK = 64  # what a killed run loses, for each actor
SETTING = "score.engine"


class EncoderActor:
    """An encoder on one CPU core or GPU. It returns PipelineErrors, because Ray would wrap them in a traceback."""

    def __init__(self, encoder: TextEncoder, torch_version: str) -> None:
        """`encoder` and `torch_version` are those of the machine that started the stage."""
        self._encoder, self._error = encoder, None
        try:
            if encoder.device.type == "cpu":
                torch.set_num_threads(1)
            check_machine(encoder, torch_version)
            _ = encoder.network
        except PipelineError as error:
            self._error = error

    def __call__(self, block: pa.Table) -> pa.Table:
        """Embed a block of pickled batches; each result is the pickled pair of a batch (no inputs) and embedding_BD."""
        results = (self._error or self._embed(pickle.loads(row)) for row in block["pickled"].to_pylist())
        return cluster.block(results)

    def _embed(self, batch: EncoderBatch) -> tuple[EncoderBatch, NDArray[np.float32]]:
        return batch._replace(inputs=None), self._encoder.embed(batch)


def check_machine(encoder: TextEncoder, torch_version: str) -> None:
    """Check that this machine sees the same files and calculates as the one that started the stage.

    Raises:
        ArtifactError: the folder is missing, or holds other files.
        ConfigError: this machine has another version of torch or another number format.
    """
    checkpoint, here = encoder.checkpoint, f"machine {platform.node()}"
    way_out = "put the encoder where all machines of the cluster see the same files, or set score.engine: local"
    try:
        _, files_sha256 = digests(checkpoint.folder)
    except OSError as error:
        raise ArtifactError(
            f"retriever.source {checkpoint.source!r}: {here} cannot read {error.filename} ({error.strerror}); {way_out}"
        ) from None
    if files_sha256 != checkpoint.files_sha256:
        raise ArtifactError(
            f"retriever.source {checkpoint.source!r}: the files in {checkpoint.folder} have digest {files_sha256} on "
            f"{here}, and {checkpoint.files_sha256} on the one that started the stage; {way_out}"
        )
    here_is, there_is = (str(torch.__version__), number_format(encoder.device)), (torch_version, encoder.dtype)
    if here_is != there_is:
        raise ConfigError(
            f"{here} has torch {here_is[0]} and embeds in {here_is[1]}, the one that started the stage has "
            f"{there_is[0]} and {there_is[1]}; give all machines the same environment and kind of processor, or set "
            "score.engine: local"
        )


def embed_all(
    encoder: TextEncoder, texts: Sequence[str], what: What
) -> Iterator[tuple[EncoderBatch, NDArray[np.float32]]]:
    """Embed texts on the cluster; yield each batch, without its inputs, and its embedding_BD, in any order.

    All token ids or texts are put into the cluster's memory first (about 3 bytes a token).

    Raises:
        ConfigError: Ray is not installed, or the cluster lacks what was asked for.
        ResourceError: the cluster cannot be reached, or it broke down.
        PipelineError: what an actor raises while it loads the encoder.
    """
    ray = cluster.connected(SETTING)
    most = num_actors(encoder.device.type, ray.cluster_resources())
    held = [ray.put(block) for block in blocks(encoder.batches(texts, what), most)]
    done = ray.data.from_arrow_refs(held).map_batches(
        EncoderActor,
        fn_constructor_args=(encoder, str(torch.__version__)),
        batch_size=None,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=min(most, len(held))),
        **{"num_gpus" if encoder.device.type == "cuda" else "num_cpus": 1},
    )
    way_out = "what was embedded is in the cache: run the same command again, or set score.engine: local"
    yield from cluster.results(ray, done, way_out, SETTING)


def num_actors(device: str, resources: Mapping[str, float]) -> int:
    """Return the number of actors that embed on the device.

    Raises:
        ConfigError: as cluster.num_actors, or the cluster's GPUs would go unused.
    """
    if device == "cpu" and resources.get("GPU") and not os.environ.get("FOCUS_DEVICE"):
        raise ConfigError(
            f"the Ray cluster has {int(resources['GPU'])} GPUs, but the machine that starts the stage has none, and "
            "its number format is the run's; start it on a machine with a GPU, or set FOCUS_DEVICE=cpu"
        )
    return cluster.num_actors("GPU" if device == "cuda" else "CPU", resources, SETTING)


def blocks(batches: Iterable[EncoderBatch], num_actors: int) -> Iterator[pa.Table]:
    """Distribute batches over blocks. Every n-th batch is in one block, so that blocks take equally long although the
    batches are sorted by length."""
    remaining, num_blocks = iter(batches), num_actors * BLOCKS_PER_ACTOR
    while group := list(islice(remaining, MAX_BATCHES_PER_BLOCK * num_blocks)):
        for place in range(min(len(group), num_blocks)):
            yield cluster.block(group[place::num_blocks])
