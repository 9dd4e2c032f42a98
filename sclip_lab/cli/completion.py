"""``sclip-lab completion``: a script that completes commands, keys and names in a shell.

    eval "$(sclip-lab completion bash)"                 # in ~/.bashrc; zsh likewise in ~/.zshrc
    sclip-lab completion fish | source                  # in ~/.config/fish/config.fish

The script asks ``sclip-lab completion --words`` for what may come next.
"""

from __future__ import annotations

import argparse

from sclip_lab.core.errors import LabError

BASH = """_sclip_lab() {
  local IFS=$'\\n' line="${COMP_LINE:0:COMP_POINT}"
  local word="${line##* }"
  COMPREPLY=($(sclip-lab completion --words "$line" 2>/dev/null))
  # bash breaks words at "=" and replaces what stands behind it alone
  [[ "$word" == *=* ]] && COMPREPLY=("${COMPREPLY[@]#"${word%=*}="}")
  [[ ${#COMPREPLY[@]} -eq 1 && "${COMPREPLY[0]}" == *= ]] && compopt -o nospace
}
complete -F _sclip_lab sclip-lab
"""
ZSH = """_sclip_lab() {
  local -a words_of_it
  words_of_it=(${(f)"$(sclip-lab completion --words "${LBUFFER}" 2>/dev/null)"})
  compadd -S '' -- $words_of_it
}
compdef _sclip_lab sclip-lab
"""
FISH = """complete -c sclip-lab -f -a '(sclip-lab completion --words (commandline -cp) 2>/dev/null)'
"""
SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}


def add_arguments(arguments: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    arguments.description = (
        "Print a script for tab completion. In ~/.bashrc or ~/.zshrc: "
        'eval "$(sclip-lab completion bash)"; in config.fish: sclip-lab completion fish | source'
    )
    arguments.add_argument("shell", nargs="?", choices=SCRIPTS)
    arguments.add_argument("--words", metavar="LINE", help="what may come next, one a line")


def run(args: argparse.Namespace) -> int:
    """Print the script, or words that may come next; return 0."""
    if args.words is not None:
        print("\n".join(candidates(args.words)))
    elif args.shell is None:
        raise LabError(f"completion: name a shell, one of {', '.join(SCRIPTS)}")
    else:
        print(SCRIPTS[args.shell], end="")
    return 0


def candidates(line: str) -> list[str]:
    """Words that may stand where a typed line ends, whole words each.

    >>> candidates("sclip-lab evaluate attention=vanil")
    ['attention=vanilla']
    """
    from sclip_lab.cli.main import COMMANDS

    words = line.split(" ")
    start = words[-1]
    if len(words) <= 2:
        return [name for name in COMMANDS if name.startswith(start)]
    candidates = _keys(start) if words[1] in ("evaluate", "tune", "paper") else []
    if words[1] == "store" and len(words) == 3:
        candidates = ["list", "sweeps", "verify", "repair", "gc", "export"]
    if words[1] == "paper":
        from sclip_lab.paper import studies

        candidates += studies.names()
    return [word for word in dict.fromkeys(candidates) if word.startswith(start)]


def _keys(start: str) -> list[str]:
    """Groups with their files, and the keys of the configuration."""
    from sclip_lab.config.composition import composed, plain_config
    from sclip_lab.config.folders import names
    from sclip_lab.core.values import leaves

    key, equals, value = start.partition("=")
    if equals and names(key):
        earlier, comma, _ = value.rpartition(",")
        return [f"{key}={earlier}{comma}{name}" for name in names(key)]
    groups = ("attention", "backbone", "dataset", "protocol", "readout", "refinement", "experiment")
    keys = [f"{group}=" for group in groups]
    if "." in start or not start:
        config = plain_config({k: v for k, v in composed().items() if k != "hydra"})
        keys += [f"{name}=" for name, _ in leaves(config, lists=False)]
    return keys
