"""Run a command line of Hydra: its flags, one job, or a sweep.

This replaces Hydra's entry point, which prints errors itself and uses its own loader. Here errors
are raised, and configurations come from `sclip_lab.config.composition.Loader`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hydra import version
from hydra._internal.callbacks import Callbacks
from hydra._internal.hydra import Hydra
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import run_job
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig

from sclip_lab.config.composition import CONFIG, Loader, plain_config
from sclip_lab.config.sweeper import check_grids
from sclip_lab.core.errors import CrashError, LabError, bug_behind, describe

NAME = "evaluate"
# Beginning of an error that Hydra or logging raises without naming the key -> what it is about.
OF_HYDRA = {
    "Unknown plugin class": "hydra.launcher or hydra.sweeper",
    "Unable to configure": "hydra.job_logging or hydra.hydra_logging",
    "Expecting one subcommand": "--shell-completion",
}


def run(words: Sequence[str], task: Callable[[DictConfig], Any]) -> None:
    """Run a command line of Hydra, given by the words behind the command's name.

    Raises:
        LabError: the words do not compose, or several jobs failed.
        Exception: the error of a job, once all jobs have ended, if only this one failed.
    """
    parser = get_args_parser()
    parser.prog = "sclip-lab evaluate"
    args = parser.parse_intermixed_args(list(words))  # flags may stand between overrides
    _check_flags(args)
    version.setbase("1.3")
    hydra = Hydra(NAME, Loader(args.config_dir, args.config_path))
    GlobalHydra.instance().initialize(hydra)
    config_name, overrides = args.config_name or CONFIG, list(args.overrides)
    try:
        if args.help:
            hydra.app_help(config_name, parser, args)
        elif args.hydra_help:
            hydra.hydra_help(config_name, parser, args)
        elif args.cfg:
            hydra.show_cfg(config_name, overrides, args.cfg, args.package, args.resolve)
        elif args.info:
            hydra.show_info(args.info, config_name, overrides)
        elif args.shell_completion:
            hydra.shell_completion(config_name, overrides)
        else:
            _run_jobs(hydra, config_name, overrides, task, args.multirun)
    except (RuntimeError, ValueError) as error:
        for words, key in OF_HYDRA.items():
            if str(error).startswith(words):
                raise LabError(
                    f"{key}: {error}; {error.__cause__}".removesuffix("; None")
                ) from None
        raise
    finally:
        GlobalHydra.instance().clear()


def _check_flags(args: Any) -> None:
    if args.experimental_rerun is not None:
        raise LabError(
            f"--experimental-rerun {args.experimental_rerun}: refused, since its file is a pickle, "
            "which can run code; type the keys of .hydra/overrides.yaml instead"
        )
    exclusive = ("run", "multirun", "cfg", "info", "shell_completion")
    if len(flags := [f"--{name}" for name in exclusive if getattr(args, name)]) > 1:
        raise LabError(f"command line: {' and '.join(flags)} cannot be combined")
    if args.resolve and not (args.cfg or args.help):
        raise LabError("command line: --resolve needs --cfg or --help")


def _run_jobs(
    hydra: Hydra,
    config_name: str,
    overrides: list[str],
    task: Callable[[DictConfig], Any],
    multirun: bool,
) -> None:
    errors: list[Exception] = []
    count = 0

    def recorded(config: DictConfig) -> Any:
        nonlocal count
        count += 1
        try:
            return task(config)
        except Exception as error:
            errors.append(error)
            raise

    if not multirun:
        multirun = _run_one(hydra, config_name, overrides, recorded)
    if multirun:
        overrides = [*overrides, "hydra.mode=MULTIRUN"]
        try:
            hydra.multirun(config_name, recorded, overrides)
        except Exception:
            if not errors:  # otherwise it is the error of a job
                raise
    if len(errors) == 1:
        raise errors[0]
    if errors:
        text = f"{len(errors)} of {count} jobs failed: {by_reason(errors)}"
        bug = next(filter(None, map(bug_behind, errors)), None)
        raise LabError(text) if bug is None else CrashError(text) from bug


def by_reason(errors: Sequence[Exception]) -> str:
    """The errors of jobs as text, the most frequent reason first. A reason that several jobs share
    appears once, with the first of these jobs."""
    texts: dict[str, list[str]] = {}
    for error in errors:
        text, cause = describe(error), error.__cause__
        reason = "" if cause is None else describe(cause)
        texts.setdefault(reason if reason and text.endswith(reason) else text, []).append(text)
    lines = []
    for reason, alike in sorted(texts.items(), key=lambda item: -len(item[1])):
        first = "" if len(set(alike)) == 1 else f" (first: {alike[0].removesuffix(reason)[:-2]})"
        lines.append(f"{len(alike)} x {reason if first else alike[0]}{first}")
    return "; ".join(lines)


def _run_one(
    hydra: Hydra, config_name: str, overrides: list[str], task: Callable[[DictConfig], Any]
) -> bool:
    """Run one job; return True instead if the configuration asks for a sweep."""
    config = hydra.compose_config(config_name, overrides, RunMode.RUN, with_log_configuration=True)
    if config.hydra.mode == RunMode.MULTIRUN:
        return True
    sweeper = config.hydra.sweeper
    grids = plain_config(sweeper.get("grids")) or []
    check_grids(grids)
    swept = [*(sweeper.get("params") or ()), *dict.fromkeys(key for grid in grids for key in grid)]
    if swept:  # only one job, of the defaults, would run
        name = config.hydra.runtime.choices.get("experiment")
        raise LabError(
            f"experiment={name} sweeps over {', '.join(map(str, swept))}: "
            f"add -m, as in 'sclip-lab evaluate -m experiment={name}'"
        )
    config.hydra.mode = RunMode.RUN
    callbacks = Callbacks(config)
    callbacks.on_run_start(config=config, config_name=config_name)
    outcome = run_job(
        task_function=task,
        config=config,
        job_dir_key="hydra.run.dir",
        job_subdir_key=None,
        hydra_context=HydraContext(config_loader=hydra.config_loader, callbacks=callbacks),
    )
    callbacks.on_run_end(config=config, config_name=config_name, job_return=outcome)
    return False
