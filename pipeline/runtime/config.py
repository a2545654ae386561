"""Loads params.yaml and conf/ into typed settings. The only module that knows Hydra.

`use` in params.yaml names one bundle per group; Hydra composes the bundles; params.yaml is laid on top and wins.
A stage gets only the sections that settings.SECTIONS lists for it, so that DVC's `params` list can be held to them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import hydra
import omegaconf
from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.runtime.errors import ConfigError, did_you_mean, one_line
from pipeline.runtime.main import run
from pipeline.runtime.settings import SECTIONS, RetrieverSettings, Section, Settings

GROUPS = ("data", "retriever", "model", "profile")
PARAMS = Path("params.yaml")
CONF = Path("conf")


class _RetrieverBundle(Section):
    retriever: RetrieverSettings


def load(stage: str | None = None, root: Path = Path()) -> Settings:
    """Compose the settings below `root` and return those that `stage` (as in settings.SECTIONS) may read; None: all.

    All settings are checked, not only this stage's: a wrong key stops the run before its first stage, not hours later.
    Reading a section that the stage does not list raises AttributeError.

    Raises:
        ConfigError: with every problem, one clause each: file, key, what was given, what is allowed.
    """
    settings = resolve(read_yaml(root / PARAMS), root)
    if stage is None:
        return settings
    return Settings.model_construct(**{section: getattr(settings, section) for section in SECTIONS[stage]})


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


def load_retrievers(names: Sequence[str], root: Path = Path()) -> dict[str, RetrieverSettings]:
    """Load bundles of conf/retriever by name, unchanged by params.yaml.

    Raises:
        ConfigError: with every problem of every bundle, as `load` does.
    """
    found, problems = {}, []
    for name in names:
        if problem := _unknown_bundle("retriever", name, root):
            problems.append(f"{PARAMS}: validation.retrievers: {problem}")
            continue
        try:
            bundle = {"retriever": read_yaml(root / CONF / "retriever" / f"{name}.yaml")}
            found[name] = _RetrieverBundle.model_validate(bundle).retriever
        except ValidationError as error:
            problems += [_describe(item, {}, {"retriever": name}) for item in error.errors()]
    if problems:
        raise ConfigError("; ".join(problems))
    return found


def read_yaml(path: Path) -> dict[str, Any]:
    """Read with ruamel, DVC's own reader: YAML 1.2, duplicate keys refused.

    Raises:
        ConfigError: the file is missing, no valid YAML, or has no sections.
    """
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
    """The bundle that the section `use` names for each group."""
    use = params.get("use")
    if not isinstance(use, dict):
        raise ConfigError(f"{PARAMS}: the section `use` must name one bundle for each of {', '.join(GROUPS)}")
    problems = [f"use.{key} is not a group{did_you_mean(key, GROUPS)}" for key in use if key not in GROUPS]
    for group in GROUPS:
        if group not in use:
            problems.append(f"use.{group} is missing; choose from {', '.join(_bundles(group, root))}")
        elif problem := _unknown_bundle(group, use[group], root):
            problems.append(f"use.{group}: {problem}")
    if problems:
        raise ConfigError("; ".join(f"{PARAMS}: {problem}" for problem in problems))
    return {group: str(use[group]) for group in GROUPS}


def _bundles(group: str, root: Path) -> list[str]:
    return sorted(path.stem for path in (root / CONF / group).glob("*.yaml"))


def _unknown_bundle(group: str, name: Any, root: Path) -> str:
    """The problem with the name of a bundle; empty if the bundle exists."""
    names = _bundles(group, root)
    return "" if name in names else f"no bundle {name!r}{did_you_mean(name, names)}; choose from {', '.join(names)}"


def _compose(use: dict[str, str], root: Path) -> dict[str, Any]:
    with hydra.initialize_config_dir(str((root / CONF).resolve()), version_base="1.3"):
        try:
            composed = hydra.compose("config", [f"{group}={name}" for group, name in use.items()])
        except hydra.errors.HydraException as error:
            raise ConfigError(f"{CONF}: {one_line(error)}") from None
    container: Any = omegaconf.OmegaConf.to_container(composed)
    return dict(container)


def _lay_over(below: dict[str, Any], above: dict[str, Any]) -> None:
    for key, value in above.items():
        if isinstance(value, dict) and isinstance(below.get(key), dict):
            _lay_over(below[key], value)
        else:
            below[key] = value


def _describe(item: Any, params: dict[str, Any], use: dict[str, str]) -> str:
    """One pydantic error as one clause of the message."""
    path, kind, context = [str(part) for part in item["loc"]], item["type"], item.get("ctx", {})
    if not path:  # two settings that do not go together
        return f"{PARAMS}: {context['error']}"
    # The tag of a discriminated union ("data", "bios", "seed") is not a key of the file.
    if len(path) > 2 and path[0] in ("data", "retriever"):
        path.pop(1)
    if kind == "union_tag_invalid":
        path.append("kind")
    where = f"{_file_of(path, params, use)}: {'.'.join(path)}"
    if kind == "missing":
        return f"{where} is missing"
    if kind == "union_tag_invalid":
        return f"{where} is {context['tag']!r}, expected one of {context['expected_tags']}"
    if kind == "extra_forbidden" and len(path) == 1:
        return f"{where} is not a section{did_you_mean(path[0], Settings.model_fields)}"
    if kind == "extra_forbidden":
        section = Settings.model_fields[path[0]].annotation
        known = {name for part in get_args(section) or (section,) for name in part.model_fields}
        return f"{where} is not a setting{did_you_mean(path[-1], sorted(known))}"
    expected = context.get("expected", "").replace("'", "").replace(" or ", ", ").split(", ")
    message, hint = item["msg"], did_you_mean(item["input"], expected)
    return f"{where} is {item['input']!r}: {message[0].lower()}{message[1:]}{hint}"


def _file_of(path: list[str], params: dict[str, Any], use: dict[str, str]) -> str:
    """The file that the setting was read from."""
    value: Any = params
    for part in path:
        if not isinstance(value, dict) or part not in value:
            break
        value = value[part]
    else:
        return str(PARAMS)
    group = "profile" if path[0] in ("train", "teach", "eval") and len(path) > 1 else path[0]
    return str(CONF / group / f"{use[group]}.yaml") if group in use else str(PARAMS)


if __name__ == "__main__":
    run(load)
