"""Find out by marker values which source tensor a conversion put where, and write the result as a case.

Every element of every source tensor gets a number of its own. The published conversion runs on these tensors, and
the numbers found in its output say where each target tensor came from and what was done to it. The operation that is
written down is then applied to the source tensors again and compared with the output, element by element.

Needs torch only (2.13.0 was used). The `make_*.py` scripts next to this file use it.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import math
import subprocess
import sys
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
LIMIT = 60_000  # bytes of one compressed case


def allow_torchvision_without_kernels() -> None:
    """Let torchvision be imported next to a CPU-only torch: its compiled operators are not needed for key lists."""
    original = torch.library.register_fake

    def register_fake(op, *args, **kwargs):
        try:
            decorate = original(op, *args, **kwargs)
        except RuntimeError:
            return lambda f: f

        def safe(f):
            try:
                return decorate(f)
            except RuntimeError:
                return f

        return safe

    torch.library.register_fake = register_fake


allow_torchvision_without_kernels()


def listing(state) -> list:
    """[[key, shape, dtype], ...] of a state_dict, in its order."""
    return [[k, list(v.shape), str(v.dtype).removeprefix("torch.")] for k, v in state.items() if hasattr(v, "shape")]


def state_of(build) -> dict:
    """The state_dict of a model built on the meta device, or on the CPU where it asks for values while it is built."""
    try:
        with torch.device("meta"):
            return build().state_dict()
    except (NotImplementedError, RuntimeError):
        return build().state_dict()


def mark(rows, dtype=torch.float64) -> dict:
    """Tensors for a listing, every element numbered, from 1 on."""
    out, start = {}, 1
    for key, shape, kind in rows:
        n = math.prod(shape)
        t = torch.arange(start, start + n, dtype=torch.int64).reshape(shape)
        out[key] = t if kind.startswith(("int", "uint", "bool")) else t.to(dtype)
        start += n
    return out


def apply(op: str, tensors: list, shape: list) -> torch.Tensor:
    """Apply an op of the truth to source tensors; `shape` is only used by reshape and resize."""
    steps = op.split("+")
    for i, step in enumerate(steps):
        name, *args = step.split(":")
        if name == "copy":
            (t,) = tensors
        elif name == "transpose":
            (t,) = tensors
            t = t.permute(*reversed(range(t.dim())))
        elif name == "permute":
            (t,) = tensors
            t = t.permute([int(a) for a in args[0].split(",")])
        elif name == "reshape":
            (t,) = tensors
            t = t.reshape(shape[::-1] if "transpose" in steps[i + 1 :] else shape)
        elif name == "resize":
            (t,) = tensors
            if len(t.shape) != len(shape):
                raise ValueError("resize changes the rank")
            t = t.new_empty(shape)
        elif name == "concat":
            t = torch.cat(tensors, int(args[0]))
        elif name == "split":
            (t,) = tensors
            i, n = map(int, args[1].split("/"))
            if t.shape[int(args[0])] % n:
                raise ValueError("uneven split")
            t = t.chunk(n, int(args[0]))[i]
        elif name == "slice":
            (t,) = tensors
            d, a, b = map(int, args)
            t = t.narrow(d, a, b - a)
        elif name == "stack":
            t = torch.stack(tensors, int(args[0]))
        elif name == "stack2":
            half = len(tensors) // 2
            t = torch.cat([torch.stack(tensors[:half]), torch.stack(tensors[half:])], int(args[0]))
        else:
            raise ValueError(f"unknown op {step}")
        tensors = [t]
    if list(tensors[0].shape) != list(shape):
        raise ValueError(f"{op}: {list(tensors[0].shape)} is not {shape}")
    return tensors[0]


def _same(op: str, tensors: list, t: torch.Tensor) -> bool:
    try:
        return torch.equal(apply(op, tensors, list(t.shape)).to(t.dtype), t)
    except (ValueError, RuntimeError, IndexError):
        return False


def _single_ops(s: torch.Tensor, t: torch.Tensor, first: int):
    """Candidate ops from one source tensor; `first` is the place of the target's first element in it."""
    same_size = s.numel() == t.numel()
    if same_size:
        yield from ("copy", "transpose", "reshape", "transpose+reshape", "reshape+transpose")
        return
    place = []
    for n in reversed(s.shape):
        place.append(first % n)
        first //= n
    place.reverse()
    for d in range(s.dim()):
        rest = s.numel() // s.shape[d]
        if not rest or t.numel() % rest:
            continue
        size, a = t.numel() // rest, place[d]
        n = s.shape[d] // size if size else 0
        cut = f"split:{d}:{a // size}/{n}" if n * size == s.shape[d] and a % size == 0 else f"slice:{d}:{a}:{a + size}"
        yield from (cut, cut + "+reshape", cut + "+transpose", cut + "+transpose+reshape")


def _joined_ops(tensors: list):
    for d in range(tensors[0].dim()):
        yield from (f"concat:{d}", f"concat:{d}+transpose")
    yield "stack:0"
    for d in range(1, tensors[0].dim() + 1):
        yield f"stack2:{d}"


def _joined_and_reshaped_ops(tensors: list):
    for d in range(tensors[0].dim()):
        yield from (f"concat:{d}+reshape", f"concat:{d}+reshape+transpose")
    yield "stack:0+reshape"


def explain(source: dict, target: dict, keys=None) -> tuple[dict, dict]:
    """The truth of a case and remarks: {target key: {"from", "op"}}, {target key: text}.

    `source` comes from `mark`; `target` maps keys to converted tensors, or to None where nothing was loaded.
    """
    names = list(source)
    sizes = torch.tensor([v.numel() for v in source.values()])
    starts = torch.cumsum(sizes, 0) - sizes + 1
    end = int(starts[-1] + sizes[-1])
    truth, remarks = {}, {}
    for key in keys or target:
        t = target.get(key)
        if t is None:
            truth[key] = {"from": [], "op": "none"}
            continue
        flat = t.detach().reshape(-1).to(torch.float64)
        inside = (flat >= 1) & (flat < end) & (flat == flat.round())
        if not bool(inside.all()):
            low, high = float(flat.min()), float(flat.max())
            which = int(torch.searchsorted(starts, int(flat.median()), right=True)) - 1
            if which >= 0 and float(flat.std() if flat.numel() > 1 else 0) > 0 and high < end * 1.5 and high > 1:
                s = source[names[which]]
                a, n = int(starts[which]), int(sizes[which])
                if low > a - n and high < a + 2 * n and s.dim() == t.dim():
                    truth[key] = {"from": [names[which]], "op": "resize"}
                    continue
            if bool(inside.any()):
                raise ValueError(f"{key}: only a part of it has a source")
            truth[key] = {"from": [], "op": "none"}
            continue
        which = torch.searchsorted(starts, flat.to(torch.int64), right=True) - 1
        order = [int(w) for w in torch.unique_consecutive(which)]
        order = list(dict.fromkeys(order))
        used = [source[names[w]] for w in order]
        if len(order) == 1:
            first = int(flat[0]) - int(starts[order[0]])
            ops = list(_single_ops(used[0], t, first))
        else:
            ops = list(_joined_ops(used))
        t64 = t.detach().to(torch.float64)
        op = next((o for o in ops if _same(o, [u.to(torch.float64) for u in used], t64)), None)
        if op is None and len(order) == 1:
            op, note = _reordered(used[0], t64)
            if op is not None:
                remarks[key] = note
        if op is None and len(order) > 2 and len(order) % 2 == 0:  # stack2 lists the sources in another order
            halves = [source[names[w]].to(torch.float64) for w in order[0::2] + order[1::2]]
            op = next((o for o in _joined_ops(halves) if _same(o, halves, t64)), None)
            order = order[0::2] + order[1::2] if op else order
        if op is None and len(order) > 1:
            whole = [u.to(torch.float64) for u in used]
            op = next((o for o in _joined_and_reshaped_ops(used) if _same(o, whole, t64)), None)
        if op is None:
            where = [names[w] for w in order][:6]
            raise ValueError(f"{key} {list(t.shape)}: no op found from {where} {[list(u.shape) for u in used][:6]}")
        truth[key] = {"from": [names[w] for w in order], "op": op}
    _even_or_not(truth, source)
    return truth, remarks


def _even_or_not(truth: dict, source: dict) -> None:
    """A tensor that is cut into parts of different sizes is sliced, also where one part happens to divide it evenly."""
    cuts: dict = {}
    for key, entry in truth.items():
        name, *args = entry["op"].split("+")[0].split(":")
        if name in ("split", "slice"):
            cuts.setdefault((entry["from"][0], args[0]), []).append((key, name, args))
    for (s, d), users in cuts.items():
        kinds = {(name, args[1].split("/")[1] if name == "split" else "") for _, name, args in users}
        if len(kinds) < 2:
            continue
        for key, name, args in users:
            if name == "split":
                i, n = map(int, args[1].split("/"))
                size = source[s].shape[int(d)] // n
                steps = truth[key]["op"].split("+")
                steps[0] = f"slice:{d}:{i * size}:{(i + 1) * size}"
                truth[key]["op"] = "+".join(steps)


def _reordered(s: torch.Tensor, t: torch.Tensor):
    """The same elements in another order that keys and shapes do not show."""
    if s.numel() != t.numel():
        if s.dim() == t.dim():
            return "resize", "tiled, cropped or picked out"
        return None, None
    if not torch.equal(s.to(torch.float64).reshape(-1).sort().values, t.reshape(-1).sort().values):
        return None, None
    if list(s.shape) == list(t.shape):
        return "copy", "rows or channels in another order"
    for perm in itertools.permutations(range(s.dim())):
        if torch.equal(s.to(torch.float64).permute(perm).reshape(t.shape), t):
            if list(perm) == list(reversed(range(s.dim()))):
                return "transpose+reshape", ""
            if s.dim() == 2:
                break
            if [s.shape[p] for p in perm] == list(t.shape):
                return "permute:" + ",".join(map(str, perm)), ""
            return "reshape", f"dimensions in the order {perm}"
    return "reshape", "rows or channels in another order"


def check(case: dict) -> None:
    """Truth covers exactly the target keys, sources exist, and ops give the target shapes."""
    source = {k: torch.empty(s, device="meta") for k, s, _ in case["source"]}
    target = {k: s for k, s, _ in case["target"]}
    if len(source) != len(case["source"]) or len(target) != len(case["target"]):
        raise ValueError("a key is listed twice")
    if list(case["truth"]) != list(target):
        raise ValueError("the truth does not list the target keys")
    used = set()
    for key, entry in case["truth"].items():
        if (entry["op"] == "none") != (not entry["from"]):
            raise ValueError(f"{key}: none, but sources")
        for sources in [entry["from"], *entry.get("alt", [])]:
            if sources:
                apply(entry["op"], [source[s] for s in sources], target[key])
                used.update(sources)
    unused = [k for k in source if k not in used]
    if sorted(unused) != sorted(case["unmapped_source_ok"]):
        raise ValueError("unused sources are not the ones listed")


def write(
    ident,
    title,
    source,
    target,
    truth,
    *,
    url,
    packages,
    notes="",
    tags=(),
    origin="real-conversion",
    remarks=None,
    out=HERE / "cases",
) -> None:
    """Check a case and write it, the same bytes every time."""
    remarks = {k: v for k, v in (remarks or {}).items() if v}
    if remarks:
        kinds: dict = {}
        for key, text in remarks.items():
            kinds.setdefault(text, []).append(key)
        for text, keys in kinds.items():
            notes += f" {len(keys)} targets ({text}; shapes do not show it), e.g. {keys[0]}."
    used = {s for e in truth.values() for f in [e["from"], *e.get("alt", [])] for s in f}
    case = {
        "id": ident,
        "title": title,
        "origin": origin,
        "source": source,
        "target": target,
        "truth": {k: truth[k] for k, _, _ in target},
        "unmapped_source_ok": [k for k, _, _ in source if k not in used],
        "notes": f"{packages}. {notes}".strip(),
        "source_url": url,
        "tags": list(tags),
    }
    if len(truth) != len(target):
        raise ValueError(f"{ident}: truth has other keys than the target")
    check(case)
    data = gzip.compress(json.dumps(case, separators=(",", ":")).encode(), 9, mtime=0)
    if len(data) > LIMIT:
        raise ValueError(f"{ident}: {len(data)} bytes")
    Path(out, ident + ".json.gz").write_bytes(data)
    ops: dict = {}
    for e in truth.values():
        name = "+".join(o.split(":")[0] for o in e["op"].split("+"))
        ops[name] = ops.get(name, 0) + 1
    same = sum(e["from"] == [k] and e["op"] == "copy" for k, e in truth.items())
    print(f"{ident}: {len(source)} -> {len(target)} keys, {same} unchanged, {len(data)} bytes, {ops}")
    if remarks:
        print("   ", case["notes"][:400])


def convert(ident, title, source_rows, target_rows, function, adjust=None, **kwargs) -> None:
    """One case from a function that turns a source dict into a target dict."""
    marked = mark(source_rows)
    made = function(dict(marked))
    keys = [k for k, _, _ in target_rows]
    shapes = {k: s for k, s, _ in target_rows}
    for key, tensor in made.items():
        if key in shapes and list(tensor.shape) != shapes[key]:
            raise ValueError(f"{ident}: {key} became {list(tensor.shape)}, the model has {shapes[key]}")
    lost = [k for k in made if k not in shapes]
    if lost:
        print(f"    {ident}: {len(lost)} converted keys are not in the model, e.g. {lost[:3]}")
    truth, remarks = explain(marked, made, keys)
    if adjust:
        adjust(truth)
    write(ident, title, source_rows, target_rows, truth, remarks=remarks, **kwargs)


CHILD = """
import json, sys
sys.path.insert(0, {here!r})
import tracing as T
import torch
{setup}
out = {{}}
for name, build in BUILD.items():
    try:
        out[name] = T.listing(T.state_of(build))
    except Exception as e:
        out[name] = repr(e)
json.dump(out, sys.stdout)
"""


def old_listings(path: str, setup: str, python: str = sys.executable) -> dict:
    """Listings from another release: `setup` defines BUILD = {name: function}; `path` holds the old packages."""
    code = CHILD.format(here=str(HERE), setup=setup)
    done = subprocess.run(
        [python, "-c", code],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": path, "HF_HUB_OFFLINE": "1"},
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    rows = json.loads(done.stdout.splitlines()[-1])
    for name, r in rows.items():
        if isinstance(r, str):
            print(f"    {name}: {r[:300]}")
    return {k: v for k, v in rows.items() if not isinstance(v, str)}


def arguments(*names) -> argparse.Namespace:
    """--NAME PATH options for folders with old packages, and --only for single cases."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="", help="make only the cases whose id contains this")
    for n in names:
        parser.add_argument("--" + n, help=f"folder made with `pip install --no-deps --target` for {n}")
    return parser.parse_args()
