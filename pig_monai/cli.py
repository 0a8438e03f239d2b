"""Fire command lines with one-line errors and flags that are checked before anything runs."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

import fire

from pig_monai.errors import PigError, debugging, find_user_error, report_user_error


def check_flags(argv: Sequence[str], known: Sequence[str], hint: str) -> None:
    """Refuse a ``--flag`` that is not ``known``.

    Fire calls the function first and complains about the rest afterwards, and MONAI's bundle runner takes any
    id without a word: both would run for hours with a mistyped setting.

    Raises:
        PigError: an unknown flag, with the closest known one.
    """
    for argument in argv:
        if not argument.startswith("--") or argument == "--":
            continue
        name = argument[2:].split("=", 1)[0].replace("-", "_")
        if name in known or name == "help":
            continue
        close = difflib.get_close_matches(name, known, n=1)
        raise PigError(f"unknown option --{name}", f"did you mean --{close[0]}?" if close else hint)


def as_bool(value: Any, name: str) -> bool:
    """Read a switch: ``True``/``False`` or the words in any case, as they arrive from a command line.

    Raises:
        PigError: anything else; ``name`` says which switch it is.
    """
    if isinstance(value, bool):
        return value
    words = {"true": True, "false": False}
    if str(value).lower() in words:
        return words[str(value).lower()]
    raise PigError(f"{name} is {value!r}", "give true or false")


def with_options(options: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options that it shares with others; it gets them as one argument, ``options``.

    Its signature, which says what flags there are, and its docstring, which is the ``--help``, come to name them.

    Args:
        options: a dataclass of options with defaults, whose docstring ends with the list of them; the list takes
            the place of the last line of the command's own, which is about ``options``.
    """
    shared = dataclasses.fields(options)
    names = {field.name for field in shared}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def wrapped(**given: Any) -> None:
            picked = {name: value for name, value in given.items() if name in names}
            rest = {name: value for name, value in given.items() if name not in names}
            command(**rest, options=options(**picked))

        own = [p for p in inspect.signature(command).parameters.values() if p.name != "options"]
        more = [inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default) for f in shared]
        wrapped.__signature__ = inspect.Signature([*own, *more])  # type: ignore[attr-defined]
        arguments = str(inspect.getdoc(options)).partition("Args:\n")[2]
        wrapped.__doc__ = str(inspect.getdoc(command)).partition("    options: ")[0] + arguments
        return wrapped

    return decorate


def as_whole(value: Any, name: str, least: int = 1) -> int:
    """Read a whole number of at least ``least``.

    Raises:
        PigError: anything else; ``name`` says which id or option it is.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise PigError(f"{name} is {value!r}", f"give a whole number from {least} on")
    return value


def as_number(value: Any, name: str, least: float = 0, most: float = math.inf) -> float:
    """Read a number from ``least`` to ``most``.

    Raises:
        PigError: anything else; ``name`` says which id or option it is. YAML reads ``1e-4`` as a text, which is
            what usually went wrong.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        limits = f"from {least:g} on" if most == math.inf else f"from {least:g} to {most:g}"
        yaml = "; YAML needs 1.0e-4 rather than 1e-4" if isinstance(value, str) else ""
        raise PigError(f"{name} is {value!r}", f"give a number {limits}{yaml}")
    return float(value)


def run_command(command: Callable[..., None], argv: Sequence[str] | None = None) -> None:
    """Run ``command`` as a command line; a `PigError` ends it with one line and exit status 1.

    Args:
        command: a function with keyword-only arguments; its docstring is the ``--help``.
        argv: the arguments; the process's own by default.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parameters = inspect.signature(command).parameters
    try:
        if not {"--help", "-h"} & set(argv):
            check_flags(argv, list(parameters), hint="run with --help to see the options")
            given = {a[2:].split("=", 1)[0].replace("-", "_") for a in argv if a.startswith("--")}
            required = [n for n, p in parameters.items() if p.default is inspect.Parameter.empty]
            missing = [name for name in required if name not in given]
            if missing:
                raise PigError(f"--{missing[0]} is missing", "run with --help to see the options")
        fire.Fire(command, command=argv, name=sys.argv[0])
    except Exception as exception:
        error = find_user_error(exception)
        if error is None or debugging():
            raise
        report_user_error(error)
        sys.exit(1)
