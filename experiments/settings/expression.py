"""Read values that RL Zoo writes as Python, e.g. "dict(activation_fn=nn.ReLU)", without running them."""

import ast
from typing import Any


def read_expression(text: str, setting: str) -> Any:
    """Return the value of an expression of literals, `dict(…)` and names; a name such as nn.ReLU is its text.

    Args:
        text: the expression.
        setting: name of the setting, for messages.

    Raises:
        ValueError: the text is anything else.
    """
    try:
        return convert(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(
            f"{setting}: cannot read {text!r:.100} ({error}); only literals, dict(name=value) and names of "
            "classes are read: write it as YAML, e.g. {net_arch: [64, 64], activation_fn: ReLU}"
        ) from None


def convert(node: ast.expr) -> Any:
    """Return the value of one node.

    Raises:
        ValueError: it is no literal, `dict(…)` or name.
    """
    match node:
        case ast.Constant(value=bool() | int() | float() | str() | None):
            return node.value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
        case ast.List(elts=parts) | ast.Tuple(elts=parts):
            return [convert(part) for part in parts]
        case ast.Dict(keys=keys, values=values) if None not in keys:
            return {convert(key): convert(value) for key, value in zip(keys, values, strict=True) if key}
        case ast.Call(func=ast.Name(id="dict"), args=[], keywords=keywords):
            if all(each.arg for each in keywords):
                return {str(each.arg): convert(each.value) for each in keywords}
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=ast.Name(id=module), attr=name):
            return f"{module}.{name}"
    raise ValueError(f"{ast.unparse(node)[:60]} is not allowed")
