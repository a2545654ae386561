"""Uploads the adapter of a method, or the model merged of it, to the Hugging Face hub; private unless asked otherwise.

    python -m pipeline.tools.push METHOD --repo OWNER/NAME [--merged FOLDER] [--public]

An adapter goes with the results of its evaluation in its card. An adapter that is not the one that the present
settings, data and code make (as far as DVC knows) is refused, and so is a model that was merged of another adapter.
"""

import sys
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # public, but named in no __all__

from pipeline.common import base_card
from pipeline.model import loading
from pipeline.runtime.errors import ArtifactError, ConfigError, ResourceError, one_line
from pipeline.runtime.main import run
from pipeline.runtime.methods import TRAINED
from pipeline.tools import arguments, lineage
from pipeline.training import model_card


def main() -> None:
    """Check, then upload all files in one commit.

    Raises:
        ConfigError: the method or the name of the repository is wrong.
        ArtifactError: the adapter is missing, damaged or out of date, or the merged model is of another one.
        ResourceError: there is no token, or the hub does not take the files.
    """
    parser = arguments.ArgumentParser(prog="python -m pipeline.tools.push", description=__doc__)
    parser.add_argument("method", type=arguments.one_of(TRAINED), help=f"a method: {', '.join(TRAINED)}")
    parser.add_argument("--repo", required=True, help="owner/name on the hub; it is made where it does not exist")
    parser.add_argument("--merged", type=Path, help="upload the model that `make merge` wrote there")
    parser.add_argument("--public", action="store_true", help="a new repository can be read by everybody")
    asked = parser.parse_args(sys.argv[1:])
    _require_name(asked.repo)
    loading.find_adapter(asked.method, base_card.read_card())
    _refuse_stale(asked.method)
    folder = base_card.MODELS / asked.method
    if asked.merged is not None:
        folder = asked.merged
        _require_merged(asked.method, folder)
    card = lineage.card(asked.method, merged=asked.merged is not None)
    if get_token() is None:
        raise ResourceError("there is no token of the hub here; run `hf auth login`, or set HF_TOKEN")
    paths = sorted(path for path in folder.iterdir() if path.is_file() and path.name != model_card.README)
    files: list[CommitOperationAdd] = [CommitOperationAdd(path.name, str(path)) for path in paths]
    files.append(CommitOperationAdd(model_card.README, card.encode()))
    api = HfApi()
    try:
        api.create_repo(asked.repo, private=not asked.public, exist_ok=True)
        done = api.create_commit(asked.repo, files, commit_message=f"Upload {folder.name}")
    except Exception as error:  # the client raises a dozen kinds, those of its HTTP library among them
        raise ResourceError(
            f"{asked.repo}: {api.endpoint} did not take the files ({one_line(error)}); check the network, the name and "
            "what the token may do, and run it again"
        ) from None
    size = sum(path.stat().st_size for path in paths)
    print(
        f"push: {len(files)} files of {folder}, {size:,} bytes, in {done.commit_url}; a new repository is "
        f"{'public' if asked.public else 'private'}, one that was there stays as it was"
    )


def _require_name(repo: str) -> None:
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise ConfigError(f"--repo is {repo!r} ({one_line(error)}); expected OWNER/NAME") from None
    if repo.count("/") != 1:
        raise ConfigError(f"--repo is {repo!r}; expected OWNER/NAME, your name on the hub first")


def _refuse_stale(method: str) -> None:
    stage = f"train@{method}"
    if found := (lineage.changed(stage) or {}).get(stage):
        raise ArtifactError(
            f"{base_card.MODELS / method}: is not what the present state makes, changed since it was trained: "
            f"{', '.join(found)}; run `dvc repro {stage}`, or go back to the commit that it was trained with"
        )


def _require_merged(method: str, folder: Path) -> None:
    path = folder / model_card.README
    if not (folder / "config.json").is_file() or not path.is_file():
        raise ArtifactError(f"{folder}: no merged model with its card; run `make merge METHOD={method}` first")
    if lineage.adapter_sha256(method) not in path.read_text(encoding="utf-8"):
        raise ArtifactError(f"{folder}: was merged of another adapter; remove it and run `make merge METHOD={method}`")


if __name__ == "__main__":
    run(main)
