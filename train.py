"""Run `npg train` from a checkout; for help, run: python train.py --help."""

import sys

from experiments.command import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
