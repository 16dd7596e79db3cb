"""Load the report's templates, which are the page and the sentences of its summary."""

from pathlib import Path

import numpy as np

from experiments.extras import needs
from experiments.report import appearance
from experiments.terminal import printable

with needs("report"):
    import jinja2


def make_environment(*, autoescape: bool) -> jinja2.Environment:
    """Return a Jinja environment with the templates in this folder.

    Args:
        autoescape: whether to escape values for HTML.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=autoescape,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: printable(value) if type(value) is str or isinstance(value, Path) else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    names = ("number", "interval", "probability", "steps", "label", "enumeration")
    environment.filters |= {name: getattr(appearance, name) for name in names} | {"median": np.median}
    return environment
