"""From params.yaml and conf/ to the typed sections of one stage. The only module that knows Hydra.

`use` in params.yaml names one bundle per group; Hydra composes the bundles; params.yaml is laid on top and wins.
A stage asks for its own class of settings.py and sees nothing else, so that DVC's `params` list can be held to it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import hydra
import omegaconf
from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.runtime.errors import ConfigError, did_you_mean
from pipeline.runtime.main import run
from pipeline.runtime.settings import Retriever, RetrieverBundle, Section, Settings

GROUPS = ("data", "retriever", "model", "profile")
PARAMS = Path("params.yaml")
CONF = Path("conf")

Stage = TypeVar("Stage", bound=Section)


def load(stage: type[Stage], root: Path = Path()) -> Stage:
    """Compose the settings below `root` and return the sections that `stage` declares.

    All settings are checked, not only this stage's: a wrong key stops the run before its first stage, not hours later.

    Raises:
        ConfigError: with every problem, one clause each: file, key, what was given, what is allowed.
    """
    settings = resolve(read_yaml(root / PARAMS), root)
    return stage(**{name: getattr(settings, name) for name in stage.model_fields})


def resolve(params: dict[str, Any], root: Path = Path()) -> Settings:
    """All settings, from the content of a params.yaml and conf/ below `root`. Raises ConfigError as `load` does."""
    use = _chosen(params, root)
    composed = _compose(use, root)
    _lay_over(composed, {key: value for key, value in params.items() if key != "use"})
    try:
        settings = Settings.model_validate(composed)
    except ValidationError as error:
        raise ConfigError("; ".join(_describe(item, params, use) for item in error.errors())) from None
    load_retrievers(settings.validation.retrievers, root)
    return settings


def load_retrievers(names: Sequence[str], root: Path = Path()) -> dict[str, Retriever]:
    """Bundles of conf/retriever by name, as they stand there: params.yaml changes only the one it uses.

    Raises:
        ConfigError: with every problem of every bundle, as `load` does.
    """
    found, problems = {}, []
    for name in names:
        if problem := _unknown("retriever", name, root):
            problems.append(f"{PARAMS}: validation.retrievers: {problem}")
            continue
        try:
            bundle = {"retriever": read_yaml(root / CONF / "retriever" / f"{name}.yaml")}
            found[name] = RetrieverBundle.model_validate(bundle).retriever
        except ValidationError as error:
            problems += [_describe(item, {}, {"retriever": name}) for item in error.errors()]
    if problems:
        raise ConfigError("; ".join(problems))
    return found


def _unknown(group: str, name: Any, root: Path) -> str:
    """What is wrong with the name of a bundle; empty: nothing."""
    names = sorted(path.stem for path in (root / CONF / group).glob("*.yaml"))
    hint = did_you_mean(str(name), names)
    return "" if name in names else f"no bundle {name!r}{hint}; choose from {', '.join(names)}"


def read_yaml(path: Path) -> dict[str, Any]:
    """Read with ruamel, DVC's own reader: YAML 1.2, duplicate keys refused."""
    try:
        loaded = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; run the stage in the repository's root folder") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 (byte {error.start})") from None
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}{place}: {getattr(error, 'problem', None) or 'not valid YAML'}") from None
    if not isinstance(loaded, dict):
        raise ConfigError(f"{path}: expected sections (`mask:`, `train:`, ...), found {type(loaded).__name__}")
    return loaded


def _chosen(params: dict[str, Any], root: Path) -> dict[str, str]:
    use = params.get("use")
    if not isinstance(use, dict):
        raise ConfigError(f"{PARAMS}: the section `use` must name one bundle for each of {', '.join(GROUPS)}")
    problems = [f"{PARAMS}: use.{key} is not a group{did_you_mean(key, GROUPS)}" for key in use if key not in GROUPS]
    for group in GROUPS:
        if group not in use:
            names = sorted(path.stem for path in (root / CONF / group).glob("*.yaml"))
            problems.append(f"{PARAMS}: use.{group} is missing; choose from {', '.join(names)}")
        elif problem := _unknown(group, use[group], root):
            problems.append(f"{PARAMS}: use.{group}: {problem}")
    if problems:
        raise ConfigError("; ".join(problems))
    return {group: str(use[group]) for group in GROUPS}


def _compose(use: dict[str, str], root: Path) -> dict[str, Any]:
    overrides = [f"{group}={name}" for group, name in use.items()]
    with hydra.initialize_config_dir(str((root / CONF).resolve()), version_base="1.3"):
        try:
            composed = hydra.compose("config", overrides)
        except hydra.errors.HydraException as error:
            raise ConfigError(f"{CONF}: {' '.join(str(error).split())}") from None
    container = omegaconf.OmegaConf.to_container(composed)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def _lay_over(below: dict[str, Any], above: dict[str, Any]) -> None:
    for key, value in above.items():
        if isinstance(value, dict) and isinstance(below.get(key), dict):
            _lay_over(below[key], value)
        else:
            below[key] = value


def _describe(item: Any, params: dict[str, Any], use: dict[str, str]) -> str:
    """One pydantic error as one clause of the message."""
    path = [str(part) for part in item["loc"]]
    if not path:  # two settings that do not go together
        return f"{PARAMS}: {item['ctx']['error']}"
    # The tag of a discriminated union ("data", "bios", "seed") is no key of the file.
    if len(path) > 2 and path[0] in ("data", "retriever"):
        path.pop(1)
    key = ".".join(path)
    where = _origin(key, params, use)
    if item["type"] == "extra_forbidden":
        if len(path) == 1:
            return f"{where}: {key} is not a section{did_you_mean(key, Settings.model_fields)}"
        known = _leaf_names(Settings.model_fields[path[0]].annotation)
        return f"{where}: {key} is not a setting{did_you_mean(path[-1], known)}"
    if item["type"] == "missing":
        return f"{where}: {key} is missing"
    given = item["input"]
    if item["type"] == "union_tag_invalid":
        given, key = item["ctx"]["tag"], f"{key}.kind"
        return f"{where}: {key} is {given!r}, expected one of {item['ctx']['expected_tags']}"
    hint = did_you_mean(given, _quoted(item.get("ctx", {}).get("expected", ""))) if isinstance(given, str) else ""
    return f"{where}: {key} is {given!r}: {item['msg'][0].lower()}{item['msg'][1:]}{hint}"


def _origin(key: str, params: dict[str, Any], use: dict[str, str]) -> str:
    """The file that a dotted key was read from."""
    value: Any = params
    for part in key.split("."):
        if not isinstance(value, dict) or part not in value:
            break
        value = value[part]
    else:
        return str(PARAMS)
    section = key.split(".")[0]
    if section in use:
        return str(CONF / section / f"{use[section]}.yaml")
    in_profile = section in ("train", "teach", "eval") and "." in key
    return str(CONF / "profile" / f"{use['profile']}.yaml") if in_profile else str(PARAMS)


def _leaf_names(annotation: Any) -> list[str]:
    """Names of the settings a section may hold; of all its kinds, when the section is a union."""
    kinds = get_args(annotation) or (annotation,)
    return sorted({name for kind in kinds for name in kind.model_fields})


def _quoted(text: str) -> list[str]:
    return text.replace("'", "").replace(" or ", ", ").split(", ")


def check() -> None:
    """Say whether all settings are valid, before DVC touches anything."""
    load(Settings)


if __name__ == "__main__":
    run(check)
