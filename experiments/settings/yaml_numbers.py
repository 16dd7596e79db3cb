"""Read YAML in which 1e3 and 1e-3 are numbers, as in YAML 1.2 and in Python."""

import re
from typing import Any

import yaml

LARGEST_WHOLE = 2**53  # above it, not every whole number is a float
FLOAT = "tag:yaml.org,2002:float"


class _Loader(yaml.SafeLoader):
    """A loader of plain data; for YAML 1.1, which PyYAML reads, numbers like 1e3 are text.

    A date is text, since config.yaml holds plain data.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012 - as PyYAML has it
        first: [each for each in resolvers if each[0] != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_yaml_float(self, node: yaml.ScalarNode) -> int | float:
        """Return a number; 1e3 is an int, so that it is accepted where 1000 is, and 1000.0 is none."""
        number = super().construct_yaml_float(node)
        return whole(number) if "e" in node.value.lower() else number


_Loader.add_constructor(FLOAT, _Loader.construct_yaml_float)
_Loader.add_implicit_resolver(
    FLOAT, re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$"), list("-+.0123456789")
)


def load(text: str) -> Any:
    """Return the plain data in a YAML document.

    Raises:
        yaml.YAMLError: the text is not YAML, or has tags that would execute code.
    """
    return yaml.load(text, _Loader)


def whole(value: Any) -> Any:
    """Return a float that is a whole number, e.g. 1e6, as an int; anything else unchanged."""
    exact = isinstance(value, float) and value.is_integer() and abs(value) <= LARGEST_WHOLE
    return int(value) if exact else value
