"""``inspect`` in a terminal: one screen for a file of any size."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator

from relight.core.checkpoint import Checkpoint, Layout, ProblemKind, TensorEntry
from relight.core.manifest import KEY, Manifest, listed
from relight.core.objects import (
    Global,
    ListNode,
    Value,
    mapping_pairs,
)
from relight.core.safety import Safety
from relight.facts import replay, safety
from relight.facts.brief import brief
from relight.facts.describe import counted, shape, some, tensors
from relight.facts.lightning import LightningView
from relight.facts.manifest import manifest_of
from relight.facts.producer import producer
from relight.facts.tree import Node, folded, tree
from relight.report.layout import Style, in_line, joined, shortened, wrapped

_ROWS = 30
_LAYOUTS = {
    Layout.TORCH_ZIP: "torch zip",
    Layout.TORCH_LEGACY: "torch legacy (stacked pickles)",
    Layout.TORCH_TAR: "torch tar",
    Layout.PICKLE: "a plain pickle",
    Layout.TORCHSCRIPT: "TorchScript",
    Layout.SAFETENSORS: "safetensors",
    Layout.SHARDED: "shards with an index",
    Layout.DCP: "torch.distributed.checkpoint",
    Layout.DEEPSPEED: "DeepSpeed",
    Layout.DIRECTORY: "a folder",
    Layout.NOT_A_CHECKPOINT: "not a checkpoint",
}


def render(checkpoint: Checkpoint, style: Style, *, everything: bool = False) -> str:
    """The whole text, with a final newline.

    Args:
        checkpoint: What was read.
        style: Colour and width.
        everything: Show every row, and unfolded.
    """
    return joined(_lines(checkpoint, style, everything=everything))


def render_keys(checkpoint: Checkpoint, style: Style, *, listed: bool) -> str:
    """Only the state_dict: as a tree in full, or as a list of keys."""
    dtypes = Counter(t.dtype for t in checkpoint.tensors)
    devices = list(dict.fromkeys(t.device for t in checkpoint.tensors))
    if listed:
        rows = [
            (t.key, f"{shape(t.shape)} {t.dtype}" + ("" if t.device == "cpu" else f" {t.device}"))
            for t in checkpoint.tensors
        ]
    else:
        rows = list(_rows(tree(checkpoint.tensors), dtypes, devices, 0))
    if not rows:
        return "no such key\n" if listed else "no tensors\n"
    width = min(max(len(name) for name, _ in rows), max(style.width - 30, 40))
    return joined(f"{in_line(name).ljust(width)}  {text}" for name, text in rows)


def _lines(checkpoint: Checkpoint, style: Style, *, everything: bool) -> Iterator[str]:
    view = LightningView(checkpoint)
    yield style.paint(f"{in_line(checkpoint.origin)}: {_headline(checkpoint, view)}", "bold")
    layout = _LAYOUTS.get(checkpoint.layout, checkpoint.layout.value)
    yield from wrapped(f"{layout}, {size(checkpoint.nbytes)}{_written(checkpoint)}", style)
    for problem in checkpoint.problems[:8]:
        kind = "error" if problem.fatal and problem.kind is not ProblemKind.UNSUPPORTED else "warning"
        where = f"{problem.record}: " if problem.record else ""
        # That the thing is a folder, or of another format, is no damage.
        other = problem.kind in (ProblemKind.UNSUPPORTED, ProblemKind.NOT_A_CHECKPOINT)
        said = "damaged" if problem.fatal and not other else "note"
        yield from _painted(style, kind, f"{said}: {where}{problem.message}")
    yield from _contrary(checkpoint, style)
    if not checkpoint.readable and not checkpoint.tensors and not checkpoint.lost:
        return
    yield from _hyper_parameters(view, style, everything=everything)
    yield from _state_dict(checkpoint, style, everything=everything)
    yield from _training(view, style)
    manifest = manifest_of(checkpoint)
    if manifest is not None:
        yield from _manifest(manifest, style, everything=everything)
    yield from _names(checkpoint, style, everything=everything)
    if everything:
        yield from _evidence(checkpoint, style)


def _painted(style: Style, kind: str, text: str) -> Iterator[str]:
    for line in wrapped(text, style):
        yield style.paint(line, kind)


def _headline(checkpoint: Checkpoint, view: LightningView) -> str:
    if not checkpoint.readable:
        what = next((p.what for p in checkpoint.problems if p.what), None)
        return f"not readable ({what})" if what else "not readable"
    lightning = producer(checkpoint).get("lightning")
    kind = {
        "lightning": f"Lightning {view.version} checkpoint"
        if view.version
        else f"a checkpoint of Lightning {lightning}"
        if lightning and lightning.known
        else "a Lightning checkpoint",
        "state-dict": "a plain state_dict",
        "training-state": "a training state (not of Lightning)",
        "module": "a whole pickled object",
    }.get(view.kind, "a pickled object")
    if checkpoint.layout in (Layout.SAFETENSORS, Layout.SHARDED) or (view.kind == "other" and checkpoint.root is None):
        kind = "weights"
    parts = [kind]
    if view.epoch is not None:
        parts.append(f"epoch {view.epoch}")
    if view.global_step is not None:
        parts.append(f"step {view.global_step}")
    return ", ".join(parts)


def _written(checkpoint: Checkpoint) -> str:
    parts = [f"{name} {fact}" for name, fact in producer(checkpoint).items() if name != "lightning" and fact.known]
    return f"; written by {', '.join(parts)}" if parts else ""


def _contrary(checkpoint: Checkpoint, style: Style) -> Iterator[str]:
    for name, fact in producer(checkpoint).items():
        if fact.contrary:
            said = f"note: saved again or changed: signs of another {name}: {fact.contrary}"
            yield from _painted(style, "warning", said)


def _evidence(checkpoint: Checkpoint, style: Style) -> Iterator[str]:
    facts = {name: fact for name, fact in producer(checkpoint).items() if fact.known}
    if not facts:
        return
    yield from _section(style, "written by")
    width = max(len(f"{name} {fact}") for name, fact in facts.items())
    for name, fact in facts.items():
        yield f"  {f'{name} {fact}'.ljust(width)}  {in_line(fact.evidence)}"


def _section(style: Style, title: str, text: str = "") -> Iterator[str]:
    yield ""
    yield style.paint(title, "bold") + (f"  {text}" if text else "")


def _hyper_parameters(view: LightningView, style: Style, *, everything: bool) -> Iterator[str]:
    items = view.hyper_parameters
    if not items:
        if view.kind == "lightning":
            yield from _section(style, "hyper_parameters", "none saved")
        return
    yield from _section(style, "hyper_parameters", str(len(items)))
    width = min(max(len(in_line(n)) for n, _ in items), 28)
    limit = len(items) if everything else 20
    for name, value in items[:limit]:
        text = shortened(brief(value), max(style.width - width - 4, 20))
        yield f"  {shortened(in_line(name), width).ljust(width)}  {text}"
    if len(items) > limit:
        yield f"  ... {len(items) - limit} more (--all)"


def _state_dict(checkpoint: Checkpoint, style: Style, *, everything: bool) -> Iterator[str]:
    entries = (*checkpoint.tensors, *checkpoint.lost)
    if checkpoint.state_dict_path is None and not entries:
        yield from _section(style, "state_dict", "nothing in the file looks like one")
        return
    values = sum(t.numel for t in entries)
    storages = {t.storage_id for t in entries if t.storage_id is not None}
    nbytes = sum(s.nbytes for s in checkpoint.storages.values() if s.id in storages)
    dtypes = Counter(t.dtype for t in entries)
    devices = list(dict.fromkeys(t.device for t in entries))
    lost = len(checkpoint.lost)
    known = tensors(len(entries))
    if lost:
        known += " without values" if lost == len(entries) else f" ({lost:,} without values)"
    facts = [
        known,
        counted(values, "value"),
        size(nbytes) if nbytes or not values else "",
        some([d for d, _ in dtypes.most_common()], 3),
    ]
    if devices:
        facts.append(some(devices, 3))
    path = checkpoint.state_dict_path
    title = "state_dict" if path is None or str(path) in ("state_dict", "$") else str(path)
    yield from _section(style, title, ", ".join(f for f in facts if f))
    root = tree(entries)
    rows = list(_rows(root if everything else folded(root), dtypes, devices, 0))
    if not everything and len(rows) > _ROWS:
        rows = list(_collapsed(folded(root), dtypes, devices, _ROWS))
    width = min(max((len(name) for name, _ in rows), default=0), 40)
    for name, text in rows:
        yield f"  {in_line(name).ljust(width)}  {text}".rstrip()
    if not everything and any(text.startswith("...") or "(--all)" in text for _, text in rows):
        yield "  every tensor: --all"
    yield from _shared(checkpoint)
    if checkpoint.extra_keys:
        yield f"  no tensors: {in_line(some(checkpoint.extra_keys))}"


def _rows(node: Node, dtypes: Counter[str], devices: list[str], depth: int) -> Iterator[tuple[str, str]]:
    pad = "  " * depth
    for child in _merged(node):
        fold = f" (x{child.count})" if child.count > 1 else ""
        yield f"{pad}{child.name}{fold}", _tensors_text(child.tensors, dtypes, devices)
        yield from _rows(child, dtypes, devices, depth + 1)
    if depth == 0 and node.tensors:
        for t in node.tensors:
            yield t.key, _one(t, dtypes, devices)


def _merged(node: Node) -> Iterator[Node]:
    """Children; a chain of modules with one child and no tensors becomes one row: ``model.encoder``."""
    for child in node.children:
        name, count, inner = child.name, child.count, child
        while not inner.tensors and len(inner.children) == 1 and inner.children[0].count == 1 and count == 1:
            inner = inner.children[0]
            name = f"{name}.{inner.name}"
        yield Node(name, count, inner.tensors, inner.children)


def _collapsed(node: Node, dtypes: Counter[str], devices: list[str], room: int) -> Iterator[tuple[str, str]]:
    """As many levels as fit into ``room`` rows; what is left out is counted."""
    depth = 1
    while depth < 12 and sum(1 for _ in _to_depth(node, depth + 1, 0)) <= room:
        depth += 1
    rows = list(_to_depth(node, depth, 0))
    for name, child, leaf in rows[:room]:
        t, v = child.totals()
        if leaf and (child.children or not child.tensors):
            yield name, f"... {tensors(t)}, {v:,} values"
        else:
            yield name, _tensors_text(child.tensors, dtypes, devices)
    if len(rows) > room:
        yield "...", f"{len(rows) - room} more (--all)"


def _to_depth(node: Node, depth: int, level: int) -> Iterator[tuple[str, Node, bool]]:
    for child in _merged(node):
        fold = f" (x{child.count})" if child.count > 1 else ""
        last = level + 1 >= depth
        yield f"{'  ' * level}{child.name}{fold}", child, last
        if not last:
            yield from _to_depth(child, depth, level + 1)
    if level == 0:
        for t in node.tensors:
            yield t.key, Node(t.key, 1, [t]), False


def _tensors_text(entries: list[TensorEntry], dtypes: Counter[str], devices: list[str]) -> str:
    room = 4 if len(entries) > 5 else 5  # batch norm has five, and "and 1 more" is no shorter than the fifth
    shown = [f"{t.key.rpartition('.')[2]} {_one(t, dtypes, devices)}" for t in entries[:room]]
    if len(entries) > room:
        shown.append(f"and {len(entries) - room} more")
    return "  ".join(shown)


def _one(t: TensorEntry, dtypes: Counter[str], devices: list[str]) -> str:
    """Shape, and dtype or device where they are not what most tensors have."""
    usual = dtypes.most_common(1)[0][0] if dtypes else t.dtype
    notes = [n for n in (t.dtype if t.dtype != usual else "", t.device if len(devices) > 1 else "") if n]
    if t.layout != "strided":
        notes.append(t.layout)
    return shape(t.shape) + (f" {' '.join(notes)}" if notes else "")


def _shared(checkpoint: Checkpoint) -> Iterator[str]:
    """Tensors that lie on the same bytes."""
    groups: dict[str, list[str]] = {}
    for t in checkpoint.tensors:
        if t.storage_id is not None:
            groups.setdefault(t.storage_id, []).append(t.key)
    several = [keys for keys in groups.values() if len(keys) > 1]
    for keys in several[:3]:
        yield f"  one storage: {in_line(some(keys))}"
    if len(several) > 3:
        yield f"  ... and {len(several) - 3} more shared storages"


def _training(view: LightningView, style: Style) -> Iterator[str]:
    rows: list[tuple[str, str]] = []
    for i, (family, count) in enumerate(view.optimizer_entries):
        name = "optimizer" if len(view.optimizer_entries) == 1 else f"optimizer {i}"
        what = "" if family == "optimizer" else f"{family}-like, "
        rows.append((name, f"{what}state of {count:,} parameters"))
    if view.has("optimizer_states") and not view.optimizer_entries:
        rows.append(("optimizer", "no state"))
    for key, label in (("lr_schedulers", "schedulers"), ("callbacks", "callbacks"), ("loops", "loops")):
        value = view.get(key)
        if isinstance(value, ListNode) and value.items:
            rows.append((label, str(len(value.items))))
        pairs = mapping_pairs(value)
        if pairs:
            rows.append((label, some([_key(k) for k, _ in pairs], 4)))
    known = {
        "pytorch-lightning_version", "state_dict", "epoch", "global_step", "hyper_parameters", "hparams_name",
        "hparams_type", "optimizer_states", "lr_schedulers", "callbacks", "loops", KEY,
    }  # fmt: skip
    inside = _state_dict_key(view)
    others = [k for k in view.root_keys if k not in known and k != inside] if view.kind != "state-dict" else []
    if others:
        rows.append(("also", some(others, 6)))
    if rows:
        yield from _section(style, "training")
        width = max(len(a) for a, _ in rows)
        for name, text in rows:
            yield f"  {name.ljust(width)}  {shortened(text, style.width - width - 4)}"


def _manifest(manifest: Manifest, style: Style, *, everything: bool) -> Iterator[str]:
    """What the program that saved the file wrote down of itself."""
    when = f"of {manifest.created}" if manifest.created else ""
    yield from _section(style, "manifest", when if manifest.sealed is None else f"sealed later, {manifest.sealed}")
    rows = list(_manifest_rows(manifest, everything=everything))
    width = max((len(a) for a, _ in rows), default=0)
    for name, text in rows:
        for i, line in enumerate(wrapped(text, Style(width=style.width - width - 4), indent="")):
            yield f"  {(name if i == 0 else '').ljust(width)}  {line}"


def _manifest_rows(manifest: Manifest, *, everything: bool) -> Iterator[tuple[str, str]]:
    environment = manifest.part("environment")
    packages = manifest.packages
    first = [n for n in ("torch", "lightning", "pytorch-lightning", "numpy") if n in packages]
    names = sorted(packages) if everything else first
    shown = [f"python {environment.get('python')}", *(f"{n} {packages[n]}" for n in names)]
    if len(packages) > len(names):
        shown.append(f"and {len(packages) - len(names)} more packages")
    yield "environment", ", ".join(shown)
    devices = [d for d in listed(environment.get("devices")) if isinstance(d, str)]
    if devices:
        yield "devices", some(devices, 4)
    if manifest.commit is not None:
        changed = manifest.part("repository").get("changed")
        yield "commit", manifest.commit + (", with changes" if changed else "")
    command = [c for c in listed(manifest.data.get("command")) if isinstance(c, str)]
    if command:
        yield "command", shlex.join(command)
    make = manifest.make
    if make is not None:
        classes = Counter(m.name for m in make.modules if m.path)
        yield (
            "modules",
            some([f"{n} (x{c})" if c > 1 else n for n, c in classes.most_common()], 99 if everything else 6),
        )
        if make.functions:
            yield "code", f"digests of {some(make.functions, 99 if everything else 4)}"
    for optimizer in listed(manifest.part("training").get("optimizers")):
        if isinstance(optimizer, dict):
            groups = len(listed(optimizer.get("groups")))
            yield (
                "optimizer",
                f"{str(optimizer.get('class')).rpartition('.')[2]}, {counted(groups, 'group')}, with names",
            )
    tensors_known = manifest.part("integrity").get("tensors")
    if isinstance(tensors_known, dict):
        yield "digests", tensors(len(tensors_known))
    probe = manifest.part("probe")
    if probe:
        form = replay.form_text(probe.get("input"))
        yield "probe", f"what it answers to a seeded input of {form}"
    for name, reason in list(manifest.omitted.items())[:8]:
        yield "without", f"{name} ({reason.removeprefix('Unsuitable: ')})"


def _state_dict_key(view: LightningView) -> str | None:
    """The top-level key that holds the state_dict."""
    path = view.checkpoint.state_dict_path
    return str(path[0]) if path else None


def _key(key: Value) -> str:
    if isinstance(key, str):
        return key.partition("{")[0] or key
    return key.full_name.rpartition(".")[2] if isinstance(key, Global) else brief(key)


def _names(checkpoint: Checkpoint, style: Style, *, everything: bool) -> Iterator[str]:
    if checkpoint.layout is Layout.SAFETENSORS:
        return
    verdict = safety.safety(checkpoint)
    by_role: dict[str, list[str]] = {}
    # Those of other streams, too: pickles in byte strings, the files of a folder.
    streams = (checkpoint.globals, *(p.globals for p in checkpoint.pickles))
    names = {g.full_name: g for stream in streams for g in stream}
    for g in names.values():
        role = "dangerous" if safety.is_dangerous(g.full_name) else safety.role(g.full_name) or "unknown"
        by_role.setdefault(role, []).append(g.full_name)
    told = {
        Safety.OK: "all known to be harmless",
        Safety.DANGEROUS: "UNPICKLING THIS WOULD RUN CODE",
        Safety.MALFORMED: "the file is damaged: nothing can be vouched for",
        Safety.LIMIT: "the file reaches a limit: nothing can be vouched for",
        Safety.UNKNOWN: "not all of them known",
    }[verdict]
    yield from _section(style, "names in the pickle", f"{len(names)}, {told}")
    width = max((len(r) for r in by_role), default=0)
    for role in ("dangerous", "unknown", "config", "callback-state", "container", "rebuild", "storage", "constant"):
        listed = by_role.get(role)
        if not listed or (not everything and role in ("container", "rebuild", "storage", "constant")):
            continue
        for i, line in enumerate(wrapped(", ".join(listed if everything else _some(listed)), style, indent="")):
            text = f"  {(role if i == 0 else '').ljust(width)}  {line}"
            yield style.paint(text, "error") if role == "dangerous" else text


def _some(names: list[str]) -> list[str]:
    return names if len(names) <= 8 else [*names[:8], f"and {len(names) - 8} more"]


def size(nbytes: int) -> str:
    """Bytes in the unit that reads best: ``8.6 KB``, powers of 1000."""
    value = float(nbytes)
    for unit in ("B", "KB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
