"""Print pip constraints that pin every direct dependency to the lowest version that pyproject.toml declares.

    python .ci/lowest.py > lowest.txt

Torch is pinned to the version in constraints.txt, since older ones exist only as CUDA builds of several GB.
"""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
BOUND = re.compile(r"(?P<name>[\w.-]+)(\[.*\])?>=(?P<version>[\d.]+)")

project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
extras = project["optional-dependencies"]
declared = [*project["dependencies"], *(each for name in extras if name != "zoo" for each in extras[name])]
lowest = {bound["name"]: bound["version"] for each in declared if (bound := BOUND.match(each))}
lowest["torch"] = re.search(r"^torch==(\S+)", (ROOT / "constraints.txt").read_text(), re.M)[1]
print("\n".join(f"{name}=={version}" for name, version in sorted(lowest.items())))
