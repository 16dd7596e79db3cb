"""The command `python -m experiments.report`."""

import sys

import tyro

from experiments.report import command

sys.exit(command.main(tyro.cli(command.Arguments, description=command.__doc__)))
