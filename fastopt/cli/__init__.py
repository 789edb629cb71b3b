"""The command line: ``fastopt train``, ``predict``, ``eval``, ``weights``, ``demo``, ``compare``, ``config``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from .. import config
from ..errors import FastoptError
from ..version import __version__
from . import compare, demo, predict, train, weights


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed by whoever started this
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
    args = _parser().parse_args(argv)
    try:
        status: int = args.run(args)
        _flush()
        return status
    except BrokenPipeError:  # the reader of the output has gone
        _forget_output()
        return 141
    except (FastoptError, OSError) as error:
        print(f"fastopt: {error}", file=sys.stderr)
        return 2
    except MemoryError as error:
        print(f"fastopt: out of memory: {error or 'no more to be had'}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as missing:
        if (missing.name or "fastopt").startswith("fastopt"):
            raise
        print(f'fastopt: this command needs {missing.name}: pip install "fastopt[cli]"', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"fastopt: {message}; see {self.prog} --help\n")


def _flush() -> None:
    """Write what is printed while an error can still be reported; Python's own way at its end has another status."""
    try:
        sys.stdout.flush()
    except OSError:
        _forget_output()
        raise


def _forget_output() -> None:
    """Send what could not be written nowhere: at its end Python would try, and complain, once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser() -> argparse.ArgumentParser:
    parser = _Parser("fastopt", description="Optimizer kernels for training on CPUs.")
    parser.add_argument("--version", action="version", version=f"fastopt {__version__}")
    commands = parser.add_subparsers(required=True, metavar="command")
    for command in (train, predict, weights, demo, compare):
        command.add(commands)
    about = commands.add_parser("config", help="what this installation is and uses")
    about.set_defaults(run=lambda args: (config.show_config() and 0) or 0)
    return parser
