"""Loads params.yaml and conf/ into typed settings. The only module that knows Hydra.

`use` in params.yaml names one bundle per group; Hydra composes the bundles; params.yaml is laid on top and wins.
A stage gets only the sections that settings.SECTIONS lists for it, so that DVC's `params` list can be held to them.
"""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, get_args

import hydra
import omegaconf
from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.runtime.errors import ConfigError, did_you_mean, one_line
from pipeline.runtime.main import run
from pipeline.runtime.settings import SECTIONS, PassagesData, RetrieverSettings, Section, Settings

GROUPS = ("data", "retriever", "model", "profile")
OF_KINDS = ("data", "retriever")  # groups whose bundles have settings by their kind
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
    kinds = {group: composed.get(group, {}).get("kind") for group in OF_KINDS}
    _lay_over(composed, {key: value for key, value in params.items() if key != "use"})
    try:
        settings = Settings.model_validate(composed)
    except ValidationError as error:
        found = [_other_kind(item, params, use, kinds) or _describe(item, params, use) for item in error.errors()]
        raise ConfigError("; ".join(dict.fromkeys(found))) from None
    load_retrievers(settings.validation.retrievers, root)
    if isinstance(settings.data, PassagesData):
        load_retrievers([settings.data.distractors], root, "data.distractors")
    return settings


def load_retrievers(
    names: Sequence[str], root: Path = Path(), key: str = "validation.retrievers"
) -> dict[str, RetrieverSettings]:
    """Load bundles of conf/retriever by name, unchanged by params.yaml; `key` is the setting that names them.

    Raises:
        ConfigError: with every problem of every bundle, as `load` does.
    """
    found, problems = {}, []
    for name in names:
        if problem := _unknown_bundle("retriever", name, root):
            problems.append(f"{PARAMS}: {key}: {problem}")
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
        raise ConfigError(
            f"{path}{place}: {_yaml_fault(getattr(error, 'problem', None) or 'not valid YAML')}"
        ) from None
    except (RecursionError, ValueError) as error:  # of a value nested without end, or of a date that is none
        raise ConfigError(f"{path}: {one_line(error)}; write plain sections, keys and values") from None
    if not isinstance(loaded, dict):
        raise ConfigError(f"{path}: expected sections (`mask:`, `train:`, ...), found {type(loaded).__name__}")
    return loaded


def _yaml_fault(problem: str) -> str:
    """The fault that ruamel names, with its mend where people make it."""
    if twice := re.match('found duplicate key (".*?")', problem):
        return f"the key {twice[1]} stands twice; keep one of them"
    if r"'\t'" in problem:
        return f"{problem}; YAML is indented by blanks, not tabs"
    if "mapping values are not allowed" in problem or "could not find expected ':'" in problem:
        return f"{problem}; put a blank behind each colon, and a text that holds a colon in quotes"
    return problem


def _chosen(params: dict[str, Any], root: Path) -> dict[str, str]:
    """The bundle that the section `use` names for each group."""
    use = params.get("use")
    if not isinstance(use, dict):
        raise ConfigError(f"{PARAMS}: the section `use` must name one bundle for each of {', '.join(GROUPS)}")
    problems = [f"use.{key} is not a group{_mend(key, GROUPS)}" for key in use if key not in GROUPS]
    for group in GROUPS:
        if group not in use:
            problems.append(f"use.{group} is missing; choose from {', '.join(_bundles(group, root))}")
        elif problem := _unknown_bundle(group, use[group], root):
            problems.append(f"use.{group}: {problem}")
    if problems:
        raise ConfigError("; ".join(f"{PARAMS}: {problem}" for problem in problems))
    return {group: use[group] for group in GROUPS}


def _bundles(group: str, root: Path) -> list[str]:
    return sorted(path.stem for path in (root / CONF / group).glob("*.yaml"))


def _unknown_bundle(group: str, name: Any, root: Path) -> str:
    """The problem with the name of a bundle; empty if the bundle exists."""
    names = _bundles(group, root)
    if not isinstance(name, str):
        return (
            f"YAML reads {_written(name)}, which is no text; write the name in quotes; choose from {', '.join(names)}"
        )
    return "" if name in names else f"no bundle {name!r}{did_you_mean(name, names)}; choose from {', '.join(names)}"


def _compose(use: dict[str, str], root: Path) -> dict[str, Any]:
    quoted = {group: re.sub(r"(?=['\\])", r"\\", name) for group, name in use.items()}
    with hydra.initialize_config_dir(str((root / CONF).resolve()), version_base="1.3"):
        try:
            composed = hydra.compose("config", [f"{group}='{name}'" for group, name in quoted.items()])
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
    tag = path.pop(1) if len(path) > 2 and path[0] in OF_KINDS else ""
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        path.append("kind")
    where = f"{_file_of(path, params, use)}: {'.'.join(path)}"
    if kind in ("missing", "union_tag_not_found"):
        return f"{where} is missing"
    if kind == "union_tag_invalid":
        return f"{where} is {context['tag']!r}, expected one of {context['expected_tags']}"
    if kind == "extra_forbidden":
        return where + _unknown(path, tag, use)
    expected = context.get("expected", "").replace("'", "").replace(" or ", ", ").split(", ")
    return f"{where} is {_written(item['input'])}: {_expected(item, path)}{did_you_mean(item['input'], expected)}"


def _unknown(path: list[str], tag: str, use: dict[str, str]) -> str:
    """Tell that a key is none, and what is meant; `tag` is the kind of its group, empty where there are no kinds."""
    group, key = path[0], path[-1]
    if len(path) == 1:
        return f" is not a section{_mend(key, Settings.model_fields)}"
    if len(path) > 2:  # below a setting: data.files.train.0
        return f" is not a setting{_mend(key, ())}"
    keys_of = _keys_of_kinds(group)
    known = keys_of.get(tag) or keys_of[group]
    hint, keys = _mend(key, known), ", ".join(known)
    owners = [name for name, names in keys_of.items() if key in names]
    if owners:
        listed = " and ".join(filter(None, (", ".join(owners[:-1]), owners[-1])))
        return f" is a setting of {listed}, not of {tag} (use.{group}: {use[group]}), which has {keys}"
    return f" is not a setting{hint or f'; {tag or group} has {keys}'}"


def _keys_of_kinds(group: str) -> dict[str, list[str]]:
    """The settings of each kind of a group; under the group's own name where it has no kinds."""
    section = Settings.model_fields[group].annotation
    return {
        kind: [key for key in part.model_fields if key != "kind"]
        for part in get_args(section) or (section,)
        for kind in (get_args(part.model_fields["kind"].annotation) if "kind" in part.model_fields else [group])
    }


def _mend(key: Any, known: Iterable[str]) -> str:
    """A hint for the end of a clause about an unknown key."""
    name, colon, value = str(key).partition(":")
    return f"; put a blank behind the colon: `{name}: {value}`" if colon else did_you_mean(key, known)


def _written(value: Any) -> str:
    """The value as YAML has it, where Python writes it otherwise."""
    return json.dumps(value) if value is None or isinstance(value, bool) else repr(value)


def _expected(item: Any, path: list[str]) -> str:
    """Say what the value should be, in pydantic's words where they are plain."""
    kind, message = item["type"], item["msg"]
    if kind in ("model_type", "model_attributes_type"):
        if len(path) > 1:
            return "expected keys of its own"
        return f"expected keys, such as `{path[0]}: {{{next(iter(_keys_of_kinds(path[0]).values()))[0]}: ...}}`"
    if kind == "string_pattern_mismatch":  # a digest: the only pattern of the settings
        digits = re.findall(r"\d+", item["ctx"]["pattern"])[-1]
        return f"expected {digits} hexadecimal digits, with small letters"
    if kind == "value_error":
        return str(item["ctx"]["error"])
    words = {"string_type": "expected a text", "bool_type": "expected true or false"}
    return words.get(kind, f"{message[0].lower()}{message[1:]}")


def _other_kind(item: Any, params: dict[str, Any], use: dict[str, str], kinds: dict[str, Any]) -> str:
    """Tell that params.yaml gives a bundle another kind, if that is why a key is missing or too many; else empty."""
    group = item["loc"][0] if item["loc"] else ""
    above = params.get(group)
    given = above.get("kind") if isinstance(above, dict) else None
    if item["type"] not in ("missing", "extra_forbidden") or given is None or given == kinds.get(group):
        return ""
    return (
        f"{PARAMS}: {group}.kind is {given!r}, but use.{group}: {use[group]} is of kind {kinds[group]}; the kind "
        f"belongs to the bundle: choose another use.{group}, or copy a file of {CONF}/{group} and choose the copy"
    )


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


def main() -> None:
    """Check the settings, and that DVC can work here: a folder from a ZIP file has no repository around it."""
    load()
    if not any((folder / ".git").exists() for folder in (Path.cwd(), *Path.cwd().parents)):
        raise ConfigError(
            f"{Path.cwd()} is no git repository, which DVC needs; clone the project instead of unpacking an archive, "
            "or run `git init && git add . && git commit --message start` here"
        )


if __name__ == "__main__":
    run(main)
