"""Run `npg report` as `python -m experiments.report`."""

import sys

from experiments.command import main

sys.exit(main(["report", *sys.argv[1:]]))
