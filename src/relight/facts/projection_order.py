"""In which order a fused layer's output is taken apart, as the class that uses it says: parsed, never run."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from relight.facts.facts import Facts

_LARGEST = 4 << 20  # bytes of a source that is parsed
_CUTS = {"chunk": 1, "split": 1, "tensor_split": 1}  # where their dimension stands among the arguments
# Which part a variable's name means, by its last word; the order is that of torch's in_proj_weight.
_ROLES = {
    "q": "q", "query": "q", "queries": "q", "qs": "q", "k": "k", "key": "k", "keys": "k", "ks": "k",
    "v": "v", "value": "v", "values": "v", "vs": "v",
}  # fmt: skip
_ADDED = ("proj", "projection", "linear", "layer", "lin", "states", "state", "to")


def role(name: str) -> str | None:
    """``q``, ``k`` or ``v`` for what a layer or a variable is called (``q_proj``, ``key``, ``to_v``); else None."""
    found = [_ROLES.get(w) for w in name.lower().split("_") if w and w not in _ADDED]
    return found[0] if len(found) == 1 else None


def order(facts: Facts, module: str) -> tuple[str, ...] | None:
    """The roles in the order in which ``forward`` takes a layer's output apart along its last dimension.

    Only the plain way is understood, ``q, k, v = self.qkv(x).chunk(3, dim=-1)``: a reshape may interleave the parts.

    Args:
        facts: All that is known (fact ``spec``).
        module: Path of the fused layer.

    Returns:
        The roles; None where the source does not tell.
    """
    spec = facts.spec.module(module)
    if spec is None or spec.line is None:
        return None
    file, _, line = spec.line.rpartition(":")
    try:
        with open(file, encoding="utf-8") as source:
            tree = ast.parse(source.read(_LARGEST))
    except (OSError, ValueError, SyntaxError, RecursionError):
        return None
    name = module.rpartition(".")[2]
    holder = _class_at(tree, int(line)) if line.isdecimal() else None
    found = set(_cuts(holder, name)) if holder is not None else set()
    return next(iter(found)) if len(found) == 1 else None


def _class_at(tree: ast.Module, line: int) -> ast.ClassDef | None:
    hits = [n for n in ast.walk(tree) if isinstance(n, ast.ClassDef) and n.lineno <= line <= (n.end_lineno or n.lineno)]
    return min(hits, key=lambda n: (n.end_lineno or n.lineno) - n.lineno, default=None)


def _cuts(holder: ast.ClassDef, name: str) -> Iterator[tuple[str, ...] | None]:
    """What every use of the layer in the class says; None for one that is not understood."""
    assigned: dict[int, ast.Assign] = {}
    calls: list[tuple[ast.Call, ast.AST | None]] = []
    parents: dict[int, ast.AST] = {}
    for node in ast.walk(holder):
        for child in ast.iter_child_nodes(node):
            parents[id(child)] = node
        if isinstance(node, ast.Call) and _is_layer(node.func, name):
            calls.append((node, None))
        if isinstance(node, ast.Assign):
            assigned[id(node.value)] = node
    for call, _ in calls:
        method = parents.get(id(call))
        cut = parents.get(id(method)) if method is not None else None
        statement = assigned.get(id(cut))
        if (
            isinstance(method, ast.Attribute)
            and isinstance(cut, ast.Call)
            and cut.func is method
            and statement is not None
            and _last_dimension(cut, method.attr)
        ):
            yield _named(statement)
        else:
            yield None


def _is_layer(node: ast.expr, name: str) -> bool:
    return (
        isinstance(node, ast.Attribute)
        and node.attr == name
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    )


def _last_dimension(call: ast.Call, method: str) -> bool:
    if method not in _CUTS:
        return False
    given = [k.value for k in call.keywords if k.arg == "dim"] or call.args[_CUTS[method] : _CUTS[method] + 1]
    if len(given) != 1:
        return False
    try:
        value = ast.literal_eval(given[0])
    except ValueError:
        return False
    # 2 is the last dimension of what attention works on; -1 is the last of anything.
    return value in (-1, 2)


def _named(statement: ast.Assign) -> tuple[str, ...] | None:
    target = statement.targets[0]
    if len(statement.targets) != 1 or not isinstance(target, ast.Tuple):
        return None
    roles = [role(e.id) if isinstance(e, ast.Name) else None for e in target.elts]
    known = tuple(r for r in roles if r is not None)
    return known if len(known) == len(roles) == len(set(known)) else None
