"""Lists of all that a `torch.export` program in JSON may hold; anything else is refused.

`torch.export.load` evaluates the expressions of sizes, looks up operators by any name, imports the
modules that descriptions of inputs name, and pastes names into Python source. The program is
therefore built anew from torch's own schema: a text is taken only where a rule here says what it
may be, so that a field of a later version that nobody has looked at is refused. What a translation
does not need is left out: guards, stack traces, metadata and the calls of submodules.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import json
import re
import types
import typing
from collections.abc import Callable
from keyword import iskeyword
from typing import Any, Final

import torch
from torch._export.serde import schema
from torch._export.serde.union import _Union as Union

from edge_runtime.reading import parse_json
from export.errors import GraphError
from export.sources.program_operators import is_operator

_LONGEST_TEXT: Final = 2**16
_LONGEST_NAME: Final = 1000
_LONGEST_SIZE: Final = 2000
_MOST_PARTS: Final = 64  # of a size: sympy simplifies it, in more than linear time
_MOST_SIZES: Final = 200  # that differ
_MOST_FACTORS: Final = 64  # Python's integers have no limit: squares of squares never end
_LARGEST: Final = 2**63
_SYMBOL: Final = re.compile(r"[a-z]{1,5}\d{1,5}")  # torch counts up to an unbacked symbol's number
# Without those on fractions: sympy looks for common divisors in them, for minutes.
_CLASSES: Final = re.compile(
    r"Add|Mul|Max|Min|Integer|Equality|Unequality|Eq|Ne|Ge|Le|Gt|Lt|(Strict)?GreaterThan|"
    r"(Strict)?LessThan|And|Or|Not|FloorDiv|ModularIndexing|PythonMod|Mod|CleanDiv"
)
_ASSUMPTIONS: Final = re.compile(r"integer|positive|nonnegative|negative|real|finite|zero")
_CONTAINERS: Final = re.compile(
    r"builtins\.(tuple|list|dict)|collections\.OrderedDict|"
    r"transformers\.modeling_outputs\.[A-Za-z0-9]+"
)
_LEFT_OUT: Final[dict[str, Any]] = {
    "Node.metadata": {},
    "GraphModule.metadata": {},
    "GraphModule.treespec_namedtuple_fields": {},
    "ExportedProgram.guards_code": [],
}


def admit(kind: type, value: Any) -> Any:
    """Return a value in torch's schema, built anew from what is allowed.

    Args:
        kind: A class of `torch._export.serde.schema`.
        value: The value that a file's JSON gives for it.

    Raises:
        GraphError: Something in the value is not allowed.
    """
    return _Admission().build(kind, value, kind.__name__)


def refusal(got: str) -> GraphError:
    """Return the error for content that is not allowed."""
    return GraphError(
        f"is expected to hold a program of ATen operators, plain weights and nothing that runs "
        f"code, got {got}: refused, save it again with torch.export.save"
    )


class _Admission:
    """Walks one value, and counts what is costly."""

    def __init__(self) -> None:
        self._sizes: set[str] = set()
        self._factors: dict[str, int] = {}

    def build(self, hint: Any, value: Any, place: str) -> Any:
        """Return `value` as the type `hint`; `place` is the field that holds it."""
        origin, args = _form(hint)
        if origin in (typing.Union, types.UnionType):
            (inner,) = (arg for arg in args if arg is not types.NoneType)
            return None if value is None else self.build(inner, value, place)
        if origin is list and isinstance(value, list):
            return [self.build(args[0], item, place) for item in value]
        if origin is dict and isinstance(value, dict):
            return {_text(key, place): self.build(args[1], v, place) for key, v in value.items()}
        if dataclasses.is_dataclass(hint) and isinstance(value, dict):
            return self._fields(hint, value, place)
        return _leaf(hint, value, place)

    def _fields(self, cls: Any, value: dict[str, Any], place: str) -> dict[str, Any]:
        hints = _hints(cls)
        if issubclass(cls, Union) and (len(value) != 1 or not value.keys() <= hints.keys()):
            raise refusal(f"{_shown(value)} as {place}")
        missing = [name for name in _required(cls) if name not in value]
        if missing:
            raise refusal(f"no {missing[0]} in {cls.__name__}")
        built = {}
        for name in (name for name in hints if name in value):
            inner = f"{cls.__name__}.{name}"
            left_out = inner in _LEFT_OUT
            built[name] = (
                _LEFT_OUT[inner] if left_out else self.build(hints[name], value[name], inner)
            )
        if cls is schema.SymExpr:
            self._count_size(built["expr_str"])
        if cls is schema.Node:
            self._count_factors(built)
        return built

    def _count_size(self, text: str) -> None:
        self._sizes.add(text)
        if len(self._sizes) > _MOST_SIZES:
            raise refusal(f"more than {_MOST_SIZES} different symbolic sizes")

    def _count_factors(self, node: dict[str, Any]) -> None:
        """Bound the factors of the product that a whole number at run time is made of."""
        most = max(self._factors.values(), default=1)
        inputs = [
            self._factors.get(name, most) if (name := _symbolic_name(item["arg"])) else 1
            for item in node.get("inputs", ())
        ]
        target = node.get("target", "")
        factors = sum(inputs) if target.endswith(".mul") else max(inputs, default=1)
        factors = 1 if ".sym_size." in target else factors
        if factors > _MOST_FACTORS:
            raise refusal(f"a size that is a product of {factors} sizes")
        for output in node.get("outputs", ()):
            if name := _symbolic_name(output):
                self._factors[name] = factors


@functools.cache
def _form(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    return typing.get_origin(hint), typing.get_args(hint)


@functools.cache
def _required(cls: type) -> list[str]:
    missing = dataclasses.MISSING
    return [
        field.name
        for field in dataclasses.fields(cls)
        if field.default is field.default_factory is missing and not issubclass(cls, Union)
    ]


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    hints = typing.get_type_hints(cls, globalns=vars(schema))
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _symbolic_name(argument: dict[str, Any]) -> str | None:
    value = next(iter(argument.values()), None)
    return value.get("as_name") if isinstance(value, dict) else None


def _leaf(hint: Any, value: Any, place: str) -> Any:
    if hint is str and isinstance(value, str):
        return _text(value, place)
    if _is_number(hint, value):
        return value
    raise refusal(f"{_shown(value)} as {place}")


def _is_number(hint: Any, value: Any) -> bool:
    if hint is bool or isinstance(value, bool):
        return hint is bool and isinstance(value, bool)
    if hint is float:
        return isinstance(value, int | float) or value in ("Infinity", "-Infinity", "NaN")
    whole = isinstance(hint, type) and issubclass(hint, int)
    return whole and isinstance(value, int) and -_LARGEST <= value < _LARGEST


def _text(value: str, place: str) -> str:
    rule = _RULES.get(place)
    if rule is None or len(value) > _LONGEST_TEXT:
        raise refusal(f"{_shown(value)} as {place}")
    return rule(value)


def _shown(value: Any) -> str:
    return ascii(str(value)[:60])


def _name(text: str) -> str:
    """Names of values become names in Python source."""
    plain = text.isascii() and text.isidentifier() and not iskeyword(text)
    if not plain or text.startswith("__") or len(text) > _LONGEST_NAME:
        raise refusal(f"the name {_shown(text)}")
    return text


def _argument_name(text: str) -> str:
    return text if not text or text == "from" else _name(text)


def _path(text: str) -> str:
    """Names of weights become attributes of a module, and may not replace its own."""
    for part in text.split("."):
        plain = part.isascii() and part.replace("_", "a").isalnum() and not part.startswith("__")
        if not plain or hasattr(torch.fx.GraphModule, part):
            raise refusal(f"the name {_shown(text)}")
    return text


def _file_name(text: str) -> str:
    if not re.fullmatch(r"(weight|tensor)_\d{1,9}", text):
        raise refusal(f"the file {_shown(text)}")
    return text


def _operator(text: str) -> str:
    if not is_operator(text):
        raise refusal(f"the operator {_shown(text)}")
    return text


def _one_of(*known: str) -> Callable[[str], str]:
    def rule(text: str) -> str:
        if text not in known:
            raise refusal(f"{_shown(text)} in place of {', '.join(known)}")
        return text

    return rule


def _symbol(text: str) -> str:
    if not _SYMBOL.fullmatch(text):
        raise refusal(f"the symbol {_shown(text)}")
    return text


@functools.lru_cache  # the values of a program share their sizes
def _size(text: str) -> str:
    """Sizes are calls of sympy's classes, e.g. Add(Integer(1), Symbol('s0', positive=True))."""
    try:
        tree = ast.parse(text[: _LONGEST_SIZE + 1], mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise refusal(f"the size {_shown(text)}") from None
    parts = sum(isinstance(node, ast.Call) for node in ast.walk(tree))
    if len(text) > _LONGEST_SIZE or parts > _MOST_PARTS or not _fits(tree):
        raise refusal(f"the size {_shown(text)}")
    return ast.unparse(tree)


def _fits(node: ast.expr) -> bool:
    if isinstance(node, ast.UnaryOp):
        return isinstance(node.op, ast.USub) and _is_constant(node.operand)
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        return _is_constant(node)
    name, args = node.func.id, node.args
    if name == "Symbol":
        return _is_symbol(node)
    if name in {"Pow", "PowByNatural"}:
        return len(args[1:]) == 1 and not node.keywords and _is_low_power(*args)
    return bool(_CLASSES.fullmatch(name)) and not node.keywords and all(map(_fits, args))


def _is_constant(node: ast.expr) -> bool:
    return (
        isinstance(node, ast.Constant)
        and isinstance(node.value, int)
        and abs(node.value) < _LARGEST
    )


def _is_symbol(node: ast.Call) -> bool:
    values = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
    return (
        len(values) == len(node.args) == 1
        and isinstance(values[0], str)
        and bool(_SYMBOL.fullmatch(values[0]))
        and all(
            _ASSUMPTIONS.fullmatch(keyword.arg or "") and ast.unparse(keyword.value) == "True"
            for keyword in node.keywords
        )
    )


def _is_low_power(base: ast.expr, exponent: ast.expr) -> bool:
    """Return whether an exponent is at most 8, of no other power: those never end."""
    is_low = bool(re.fullmatch(r"Integer\([0-8]\)", ast.unparse(exponent)))
    return is_low and "Pow" not in ast.unparse(base) and _fits(base)


def _inputs(text: str) -> str:
    """The keys of the inputs become the names of arguments."""
    return _tree(text, _name)


def _outputs(text: str) -> str:
    return _tree(text, str)


def _tree(text: str, key: Callable[[str], str]) -> str:
    """Return how values are nested; torch would import the classes and enumerations named here."""
    try:
        version, root = parse_json(text)
    except (ValueError, TypeError):
        raise refusal(f"the structure {_shown(text)}") from None
    if version != schema.TREESPEC_VERSION:
        raise refusal(f"a structure of version {_shown(version)}")
    return json.dumps([version, _branch(root, key)])


def _branch(node: Any, key: Callable[[str], str]) -> dict[str, Any]:
    try:
        kind, context, children = node["type"], node["context"], list(node["children_spec"])
        keys = None if context is None else parse_json(context)
        if kind is None and keys is None and not children:
            return {"type": None, "context": None, "children_spec": []}
        if not _CONTAINERS.fullmatch(kind):
            raise refusal(f"the container {_shown(kind)}")
        if keys is not None:
            context = json.dumps(
                [key(name) if isinstance(name, str) else int(name) for name in keys]
            )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, GraphError):
            raise
        raise refusal(f"the structure {_shown(node)}") from None
    children = [_branch(child, key) for child in children]
    return {"type": kind, "context": context, "children_spec": children}


_FREE_TEXT: Final = str
_RULES: Final[dict[str, Callable[[str], str]]] = {
    "Device.type": _one_of("cpu", "cuda", "mps", "xpu"),
    "SymExpr.expr_str": _size,
    "SymIntArgument.as_name": _name,
    "SymFloatArgument.as_name": _name,
    "SymBoolArgument.as_name": _name,
    "TensorArgument.name": _name,
    "GraphArgument.name": lambda text: _path(_name(text)),
    "Argument.as_string": _FREE_TEXT,  # a mode, an equation: no operator takes a file's name
    "Node.target": _operator,
    "Node.name": _name,
    "NamedArgument.name": _argument_name,
    "Graph.tensor_values": _name,
    "Graph.sym_int_values": _name,
    "Graph.sym_bool_values": _name,
    "Graph.sym_float_values": _name,
    "InputToParameterSpec.parameter_name": _path,
    "InputToBufferSpec.buffer_name": _path,
    "InputToTensorConstantSpec.tensor_constant_name": _path,
    "InputToConstantInputSpec.name": _name,
    "BufferMutationSpec.buffer_name": _path,
    "ParameterMutationSpec.parameter_name": _path,
    "UserInputMutationSpec.user_input_name": _name,
    "ModuleCallSignature.in_spec": _inputs,
    "ModuleCallSignature.out_spec": _outputs,
    "ModuleCallSignature.forward_arg_names": _name,
    "ModuleCallEntry.fqn": _one_of(""),
    "ExportedProgram.opset_version": _name,
    "ExportedProgram.range_constraints": _symbol,
    "ExportedProgram.verifiers": _one_of("TRAINING", "ATEN"),
    "ExportedProgram.torch_version": _FREE_TEXT,  # nothing reads it
    "PayloadConfig.config": _path,
    "PayloadMeta.path_name": _file_name,
}
