"""`focused COMMAND` and `python -m pipeline.tools COMMAND`: a stage or a tool, in the folder of a project."""

import runpy
import sys
from pathlib import Path

from pipeline.runtime.errors import ConfigError, did_you_mean
from pipeline.runtime.main import run

ROOMS = ("stages", "tools")
NO_COMMANDS = ("__init__", "__main__", "arguments", "lineage", "settings_page")


def commands() -> dict[str, str]:
    """List the modules that can be run, by the name of their command."""
    package = Path(__file__).parents[1]
    return {
        path.stem.replace("_", "-"): f"pipeline.{room}.{path.stem}"
        for room in ROOMS
        for path in sorted((package / room).iterdir())
        if path.stem not in NO_COMMANDS and (path.suffix == ".py" or (path / "__main__.py").is_file())
    }


def main() -> None:
    run(_main)


def _main() -> None:
    known = commands()
    name, *words = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(f"usage: focused COMMAND [ARGUMENT ...]\n\ncommands: {', '.join(known)}")
        return
    if name not in known:
        raise ConfigError(
            f"focused: there is no command {name!r}{did_you_mean(name, known)}; choose from {', '.join(known)}"
        )
    sys.argv = [f"focused {name}", *words]
    runpy.run_module(known[name], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
