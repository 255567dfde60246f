"""One partition of all missing, unexpected and mismatched keys into explanations.

It is built once per check, so that no key is explained twice: comparison rules word the explanations of their kind,
and the residual rule takes the rest. Matchers run in a fixed order, the most specific first; each sees only what the
ones before it left.
"""

from __future__ import annotations

import difflib
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from relight.core.checkpoint import Checkpoint, TensorEntry
from relight.core.target import ModelSpec, ParamSpec
from relight.facts import data
from relight.facts.arguments import Arguments
from relight.facts.keys import KeyDiff, Mismatch

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Keys that one cause accounts for.

    Attributes:
        kind: ``wrapper``, ``renamed``, ``added``, ``removed``, ``tied``, ``weight-norm``, ``norm-kind``, ``fused``,
            ``loss-buffer``, ``metric-state``, ``counter``, ``library-buffer``, ``index-shift``, ``head``,
            ``vocabulary``, ``positions``, ``kernel``, ``transposed``, ``size``.
        cause: Id in the catalogue of known failures.
        missing: Missing keys that it accounts for.
        unexpected: Unexpected keys.
        mismatched: Keys with another shape.
        pairs: (key in the checkpoint, key in the model), where it says that they are the same tensor.
        certain: False where other readings fit the file as well.
        about: Further facts for the wording.
    """

    kind: str
    cause: str
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[Mismatch, ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()
    certain: bool = True
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def keys(self) -> frozenset[str]:
        """All keys that it accounts for."""
        return frozenset((*self.missing, *self.unexpected, *(m.key for m in self.mismatched)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribution:
    """The partition.

    Attributes:
        explanations: In the order of a report: what concerns the most keys first within a kind.
        unrelated: Whether file and model have so little in common that another class was probably meant.
    """

    explanations: tuple[Explanation, ...] = ()
    unrelated: bool = False

    def of(self, *kinds: str) -> tuple[Explanation, ...]:
        """Explanations of the given kinds."""
        return tuple(e for e in self.explanations if e.kind in kinds)


def with_arguments(attribution: Attribution, arguments: Arguments) -> Attribution:
    """Shapes that follow from a dropped hyper_parameter and the default that took its place: one cause for both."""
    dropped = dict(arguments.dropped)
    out: list[Explanation] = []
    for e in attribution.explanations:
        hit = None
        if e.kind in ("size", "head", "vocabulary", "positions", "channels"):
            sizes = {
                (a, b)
                for m in e.mismatched
                if len(m.saved) == len(m.wanted)
                for a, b in zip(m.saved, m.wanted, strict=True)
                if a != b
            }
            for name, param in arguments.renamed.items():
                if sizes and all(a == dropped[name] and str(b) == param.default for a, b in sizes):
                    hit = (name, param)
        if hit is not None:
            e = replace(e, kind="argument", cause="hparam-renamed-default", about={"dropped": hit[0], "param": hit[1]})
        out.append(e)
    return replace(attribution, explanations=tuple(out))


class _Board:
    """What is still unexplained, and what matchers need to look up."""

    def __init__(self, diff: KeyDiff, checkpoint: Checkpoint, spec: ModelSpec) -> None:
        self.diff = diff
        self.spec = spec
        self.entries: dict[str, TensorEntry] = {t.key: t for t in checkpoint.tensors}
        self.params: dict[str, ParamSpec] = {p.key: p for p in spec.params}
        self.modules = {m.path: m for m in spec.modules}
        self.missing = dict.fromkeys(diff.missing)
        self.unexpected = dict.fromkeys(diff.unexpected)
        self.mismatched = {m.key: m for m in diff.mismatched}
        self.explanations: list[Explanation] = []

    def saved(self, key: str) -> Shape | None:
        entry = self.entries.get(key)
        return None if entry is None else entry.shape

    def wanted(self, key: str) -> Shape | None:
        param = self.params.get(key)
        return None if param is None else param.shape

    def fits(self, old: str, new: str) -> bool:
        """Whether the file's tensor ``old`` could be the model's ``new``: both sides known and equal, or lazy."""
        param, entry = self.params.get(new), self.entries.get(old)
        if param is None or entry is None:
            return False
        return param.shape is None or param.shape == entry.shape

    def add(self, explanation: Explanation) -> None:
        for key in explanation.missing:
            del self.missing[key]
        for key in explanation.unexpected:
            del self.unexpected[key]
        for m in explanation.mismatched:
            del self.mismatched[m.key]
        self.explanations.append(explanation)


def attribute(diff: KeyDiff, checkpoint: Checkpoint, spec: ModelSpec) -> Attribution:
    """Explain all keys that differ.

    Args:
        diff: What torch will find.
        checkpoint: The file.
        spec: The model.
    """
    if diff.clean:
        return Attribution()
    board = _Board(diff, checkpoint, spec)
    for match in _MATCHERS:
        match(board)
    paired = sum(len(e.pairs) for e in board.explanations)
    known = len(diff.matched) + paired
    # Nothing fits and nothing could be paired: not a change of the model but another model.
    unrelated = known == 0 and len(diff.missing) > 0 and len(diff.unexpected) > 0
    return Attribution(explanations=tuple(board.explanations), unrelated=unrelated)


# ---------------------------------------------------------------- names


def _match_wrappers(board: _Board) -> None:
    """Segments that a wrapper inserts, anywhere in a key, on either side."""
    wrappers = {w["segment"]: w for w in data.load("key_patterns")["wrappers"]}
    bare_missing: dict[str, list[str]] = defaultdict(list)
    for key in board.missing:
        bare_missing[_without(key, wrappers)].append(key)
    pairs: list[tuple[str, str]] = []
    extra: dict[str, None] = {}
    lacking: dict[str, None] = {}
    for key in board.unexpected:
        bare = _without(key, wrappers)
        candidates = bare_missing.get(bare, [])
        if len(candidates) == 1 and board.fits(key, candidates[0]):
            pairs.append((key, candidates[0]))
            extra.update(dict.fromkeys(_surplus(key, candidates[0], wrappers)))
            lacking.update(dict.fromkeys(_surplus(candidates[0], key, wrappers)))
    if pairs:
        segments = (*extra, *lacking)
        cause = wrappers[segments[0]]["cause"] if len(segments) == 1 else "prefix-nested-wrappers"
        board.add(
            Explanation(
                kind="wrapper",
                cause=cause,
                missing=tuple(m for _, m in pairs),
                unexpected=tuple(u for u, _ in pairs),
                pairs=tuple(pairs),
                about={
                    "extra": tuple(extra),
                    "lacking": tuple(lacking),
                    "by": tuple(dict.fromkeys(wrappers[s]["by"] for s in segments)),
                },
            )
        )


def _without(key: str, segments: Mapping[str, object]) -> str:
    return ".".join(s for s in key.split(".") if s not in segments)


def _surplus(key: str, other: str, segments: Mapping[str, object]) -> list[str]:
    theirs = other.split(".")
    return [s for s in dict.fromkeys(key.split(".")) if s in segments and key.split(".").count(s) > theirs.count(s)]


def _match_attribute_prefix(board: _Board) -> None:
    """All of one side sits one attribute deeper than the other: ``model.`` in front of every key."""
    if not board.unexpected or not board.missing:
        return
    for source, other, deeper in (
        (board.unexpected, board.missing, "file"),
        (board.missing, board.unexpected, "model"),
    ):
        for prefix in _leading(source):
            pairs = []
            for key in source:
                if key.startswith(prefix) and key[len(prefix) :] in other:
                    old, new = (key, key[len(prefix) :]) if deeper == "file" else (key[len(prefix) :], key)
                    if board.fits(old, new):
                        pairs.append((old, new))
            # A prefix is a claim about a whole side; one lucky key would be a rename.
            if len(pairs) >= 2 and len(pairs) == min(len(board.unexpected), len(board.missing)):
                board.add(
                    Explanation(
                        kind="wrapper",
                        cause="prefix-lightning-attribute",
                        missing=tuple(n for _, n in pairs),
                        unexpected=tuple(o for o, _ in pairs),
                        pairs=tuple(pairs),
                        about={
                            "extra": (prefix.rstrip("."),) if deeper == "file" else (),
                            "lacking": (prefix.rstrip("."),) if deeper == "model" else (),
                            "by": ("an attribute that holds the network",),
                        },
                    )
                )
                return


def _leading(keys: Iterable[str]) -> list[str]:
    """Prefixes of one or two segments that all keys share with at least one other, longest last."""
    out: dict[str, None] = {}
    for key in keys:
        parts = key.split(".")
        for depth in (1, 2):
            if len(parts) > depth:
                out[".".join(parts[:depth]) + "."] = None
    return list(out)[:50]


def _match_tied(board: _Board) -> None:
    """One of two names of one tensor is absent or extra."""
    by_storage: dict[tuple[str, int, Shape], list[str]] = defaultdict(list)
    for entry in board.entries.values():
        if entry.storage_id is not None:
            by_storage[(entry.storage_id, entry.offset, entry.shape)].append(entry.key)
    for key in list(board.unexpected):
        extra = board.entries.get(key)
        if extra is None or extra.storage_id is None:
            continue
        twins = [k for k in by_storage[(extra.storage_id, extra.offset, extra.shape)] if k != key]
        twin = next((k for k in twins if k in board.params and board.fits(k, k)), None)
        if twin is not None:
            board.add(_tied(unexpected=(key,), twin=twin))
    for key in list(board.missing):
        param = board.params.get(key)
        twin = next((k for k in (param.tied_with if param else ()) if k in board.entries and board.fits(k, key)), None)
        if twin is not None:
            board.add(_tied(missing=(key,), twin=twin, pairs=((twin, key),)))


def _tied(
    *,
    missing: tuple[str, ...] = (),
    unexpected: tuple[str, ...] = (),
    twin: str,
    pairs: tuple[tuple[str, str], ...] = (),
) -> Explanation:
    return Explanation(
        kind="tied",
        cause="tied-weights-key",
        missing=missing,
        unexpected=unexpected,
        pairs=pairs,
        about={"twin": twin},
    )


_WEIGHT_NORM_FORMS = (
    ("plain", {"weight": ("weight",)}),
    ("old", {"weight_g": (), "weight_v": ()}),
    ("new", {"parametrizations.weight.original0": (), "parametrizations.weight.original1": ()}),
)


def _match_weight_norm(board: _Board) -> None:
    """weight_norm in its old, its new and its folded form."""
    forms = {name: tuple(keys) for name, keys in _WEIGHT_NORM_FORMS}
    for saved, wanted in ((a, b) for a in forms for b in forms if a != b):
        prefixes = [
            k.removesuffix(forms[saved][0])
            for k in board.unexpected
            if k.endswith("." + forms[saved][0]) or k == forms[saved][0]
        ]
        for prefix in prefixes:
            old = tuple(prefix + n for n in forms[saved])
            new = tuple(prefix + n for n in forms[wanted])
            if all(k in board.unexpected for k in old) and all(k in board.missing for k in new):
                # The direction has the weight's shape in every form.
                if board.saved(old[-1]) != board.wanted(new[-1]):
                    continue
                board.add(
                    Explanation(
                        kind="weight-norm",
                        cause="weight-norm-parametrizations",
                        missing=new,
                        unexpected=old,
                        pairs=tuple(zip(old, new, strict=True)) if len(old) == len(new) else (),
                        about={"saved": saved, "wanted": wanted, "module": prefix.rstrip(".")},
                    )
                )


def _match_norm_kind(board: _Board) -> None:
    """Running statistics on one side only while weight and bias of the same module fit."""
    stats = data.load("key_patterns")["running_stats"]
    for source, side in ((board.unexpected, "file"), (board.missing, "model")):
        groups: dict[str, list[str]] = defaultdict(list)
        for key in source:
            module, _, name = key.rpartition(".")
            if name in stats["names"]:
                groups[module].append(key)
        hit = {
            module: keys
            for module, keys in groups.items()
            if {k.rpartition(".")[2] for k in keys} >= {"running_mean", "running_var"}
            and f"{module}.weight" in board.entries
            and f"{module}.weight" in board.params
        }
        if hit:
            keys = tuple(k for keys in hit.values() for k in keys)
            board.add(
                Explanation(
                    kind="norm-kind",
                    cause=stats["cause"],
                    missing=keys if side == "model" else (),
                    unexpected=keys if side == "file" else (),
                    about={"modules": tuple(hit), "side": side},
                )
            )


def _match_fused(board: _Board) -> None:
    """Several projections in the file are one in the model, or the reverse: first dimensions add up, names agree."""
    for parts_side, whole_side, direction in (
        (board.unexpected, board.missing, "fuse"),
        (board.missing, board.unexpected, "split"),
    ):
        part_shape = board.saved if direction == "fuse" else board.wanted
        whole_shape = board.wanted if direction == "fuse" else board.saved
        taken: dict[str, tuple[str, ...]] = {}
        for whole in list(whole_side):
            shape = whole_shape(whole)
            parent, module, leaf = _split3(whole)
            if not shape:
                continue
            siblings: dict[str, str] = {}
            for part in parts_side:
                p_parent, p_module, p_leaf = _split3(part)
                if p_parent == parent and p_leaf.replace("_", "") == leaf.replace("_", ""):
                    siblings[p_module] = part
            ordered = _qkv_order(module, siblings)
            shapes = [part_shape(p) for p in ordered]
            fitting = [s for s in shapes if s and s[1:] == shape[1:]]
            if len(ordered) >= 2 and len(fitting) == len(ordered) and sum(s[0] for s in fitting) == shape[0]:
                taken[whole] = tuple(ordered)
        if taken:
            parts = tuple(p for ps in taken.values() for p in ps)
            board.add(
                Explanation(
                    kind="fused",
                    cause="fused-vs-split-qkv",
                    missing=tuple(taken) if direction == "fuse" else parts,
                    unexpected=parts if direction == "fuse" else tuple(taken),
                    certain=False,  # the order of the parts is by their names, which no shape can confirm
                    about={"groups": dict(taken), "direction": direction},
                )
            )


def _split3(key: str) -> tuple[str, str, str]:
    """``a.b.qkv.weight`` → (``a.b``, ``qkv``, ``weight``); ``a.in_proj_weight`` → (``a``, ``in_proj``, ``weight``)."""
    owner, _, leaf = key.rpartition(".")
    parent, _, module = owner.rpartition(".")
    if leaf in ("in_proj_weight", "in_proj_bias"):
        return owner, "in_proj", leaf.removeprefix("in_proj_")
    return parent, module, leaf


_ROLES = ("q", "k", "v")


def _qkv_order(whole: str, siblings: Mapping[str, str]) -> list[str]:
    """Parts in the order q, k, v; empty where the names do not play these roles."""
    roles: dict[str, str] = {}
    for module, key in siblings.items():
        role = re.sub(r"(_?(proj|projection|lin|linear|fc))$|^(to|w|fc|lin|proj)_?", "", module.lower())
        role = {"query": "q", "key": "k", "value": "v", "queries": "q", "keys": "k", "values": "v"}.get(role, role)
        if role in _ROLES and role not in roles:
            roles[role] = key
    wanted = (
        "kv"
        if whole.lower().strip("_").startswith("kv") or (whole.lower().endswith("kv") and "q" not in whole.lower())
        else "qkv"
    )
    return [roles[r] for r in wanted] if all(r in roles for r in wanted) else []


def _match_renames(board: _Board) -> None:
    """Subtrees that sit under another name: pairs of prefixes that carry the most keys, greedily, one to one.

    Where several subtrees are equal in everything but their names, names that are clearly alike decide (a guess, and
    marked as one); where not even those help, the group is reported without saying which is which.
    """
    guessed: set[tuple[tuple[str, Shape | None], ...]] = set()
    while votes := _prefix_votes(board):
        rename, pairs = max(votes.items(), key=lambda v: (len(v[1]), _affinity(*v[0]), -len(v[0][0]) - len(v[0][1])))
        rivals = _rivals(votes, rename)
        look = tuple(sorted((o[len(rename[0]) :], board.saved(o)) for o, _ in pairs))
        if rivals and any(_affinity(*rename) - _affinity(*r) <= 0.3 for r in rivals):
            _add_ambiguous(board, {rename: pairs, **{r: votes[r] for r in rivals}})
            continue
        if rivals:
            guessed.add(look)
        board.add(
            Explanation(
                kind="renamed",
                cause="module-renamed",
                missing=tuple(n for _, n in pairs),
                unexpected=tuple(o for o, _ in pairs),
                pairs=tuple(pairs),
                certain=look not in guessed,  # the last of several equals follows by elimination from guesses
                about={"old": rename[0], "new": rename[1]},
            )
        )


Rename = tuple[str, str]
Votes = dict[Rename, list[tuple[str, str]]]


def _prefix_votes(board: _Board) -> Votes:
    """For every pair of prefixes that could be a rename, the pairs of keys that it would join."""
    by_leaf: dict[tuple[str, Shape | None], list[str]] = defaultdict(list)
    for key in board.missing:
        by_leaf[(key.rpartition(".")[2], board.wanted(key))].append(key)
    votes: Votes = defaultdict(list)
    for old in board.unexpected:
        leaf = old.rpartition(".")[2]
        for new in (*by_leaf.get((leaf, board.saved(old)), ()), *by_leaf.get((leaf, None), ())):
            a, b = old.split("."), new.split(".")
            common = 0
            while common < min(len(a), len(b)) and a[-1 - common] == b[-1 - common]:
                common += 1
            for depth in range(1, common + 1):
                rename = ".".join(a[:-depth]), ".".join(b[:-depth])
                if all(rename):
                    votes[rename].append((old, new))
    # A subtree moves as a whole: keys under either prefix that find no partner speak against the pair.
    below_old, below_new = _keys_below(board.unexpected), _keys_below(board.missing)
    return {
        rename: pairs
        for rename, pairs in votes.items()
        if len({o for o, _ in pairs}) == len(pairs) == len({n for _, n in pairs})
        and len(pairs) == below_old[rename[0]] == below_new[rename[1]]
    }


def _keys_below(keys: Iterable[str]) -> Mapping[str, int]:
    """How many keys lie below each prefix."""
    counts: dict[str, int] = defaultdict(int)
    for key in keys:
        end = key.rfind(".")
        while end > 0:
            counts[key[:end]] += 1
            end = key.rfind(".", 0, end)
    return counts


def _rivals(votes: Votes, rename: Rename) -> list[Rename]:
    """Other renames that would take the same keys of one side, and as many."""
    old_keys = {o for o, _ in votes[rename]}
    new_keys = {n for _, n in votes[rename]}
    return [
        other
        for other, pairs in votes.items()
        if other != rename
        and len(pairs) >= len(old_keys)
        and (not old_keys.isdisjoint(o for o, _ in pairs) or not new_keys.isdisjoint(n for _, n in pairs))
        and not _same_rename(other, rename)
    ]


def _add_ambiguous(board: _Board, votes: Votes) -> None:
    """Equal subtrees under new names, which cannot be told apart."""
    news = {n: pairs for (_, n), pairs in votes.items()}
    # Bring in the equals of the equals: all old names that compete for these new ones, and the reverse.
    every = _prefix_votes(board)
    olds: dict[str, None] = {}
    for (old, new), pairs in every.items():
        if new in news and len(pairs) == len(news[new]):
            olds[old] = None
    all_news = {
        n: None for (o, n), pairs in every.items() if o in olds and len(pairs) == len(next(iter(news.values())))
    }
    missing = tuple(k for k in board.missing if any(k.startswith(n + ".") for n in all_news))
    unexpected = tuple(k for k in board.unexpected if any(k.startswith(o + ".") for o in olds))
    board.add(
        Explanation(
            kind="renamed",
            cause="module-renamed",
            missing=missing,
            unexpected=unexpected,
            certain=False,
            about={"olds": tuple(olds), "news": tuple(all_news)},
        )
    )


def _same_rename(a: tuple[str, str], b: tuple[str, str]) -> bool:
    """Whether two renames say the same at another depth: ``x → y`` and ``x.0 → y.0``."""
    (a1, a2), (b1, b2) = sorted((a, b), key=lambda r: len(r[0]))
    return b1[len(a1) :] == b2[len(a2) :] and b1.startswith(a1 + ".") and b2.startswith(a2 + ".")


def _affinity(old: str, new: str) -> float:
    """How alike two names look, 0 to 1; an initial or abbreviation counts as alike (``q`` and ``query``)."""
    a, b = old.rpartition(".")[2].lower(), new.rpartition(".")[2].lower()
    if a and b and (b.startswith(a) or a.startswith(b)):
        return 0.9
    return difflib.SequenceMatcher(None, a, b).ratio()


def _match_index_shift(board: _Board) -> None:
    """A layer inserted into or taken out of an nn.Sequential renumbers what follows it."""
    containers: dict[str, None] = {}
    for key in (*board.missing, *board.unexpected, *board.mismatched):
        parts = key.split(".")
        for i, part in enumerate(parts[:-1]):
            if part.isdigit():
                containers[".".join(parts[:i])] = None
                break
    for container in containers:
        module = board.modules.get(container)
        if module is None or not module.class_path.endswith("container.Sequential"):
            continue
        found = _shift(board, container + ".")
        if found is not None:
            board.add(found)


def _shift(board: _Board, prefix: str) -> Explanation | None:
    def blocks(shape: Callable[[str], Shape | None], keys: Iterable[str]) -> dict[int, dict[str, Shape | None]]:
        out: dict[int, dict[str, Shape | None]] = defaultdict(dict)
        for key in keys:
            if key.startswith(prefix):
                index, _, rest = key[len(prefix) :].partition(".")
                if index.isdigit() and rest:
                    out[int(index)][rest] = shape(key)
        return dict(sorted(out.items()))

    saved = blocks(board.saved, board.entries)
    wanted = blocks(board.wanted, (k for k, p in board.params.items() if p.persistent))
    a, b = list(saved.items()), list(wanted.items())
    if len(a) < 2 or len(b) < 2 or len(a) > len(b):
        return None
    # Every block of the file must be found in the model in order; the longest common subsequence must be all of it.
    pairs: list[tuple[int, int]] = []
    j = 0
    for index, block in a:
        while j < len(b) and b[j][1] != block:
            j += 1
        if j == len(b):
            return None
        pairs.append((index, b[j][0]))
        j += 1
    if all(x == y for x, y in pairs):
        return None
    joined = [(f"{prefix}{x}.{rest}", f"{prefix}{y}.{rest}") for x, y in pairs for rest in saved[x] if x != y]
    touched = {k for pair in joined for k in pair}
    # Positions of the model that nothing in the file fills are layers of their own.
    fresh = {y for y, _ in b} - {y for _, y in pairs}
    new_keys = {f"{prefix}{y}.{rest}" for y in fresh for rest in wanted[y]}
    missing = tuple(k for k in board.missing if k in touched or k in new_keys)
    unexpected = tuple(k for k in board.unexpected if k in touched)
    mismatched = tuple(m for k, m in board.mismatched.items() if k in touched or k in new_keys)
    if not missing and not unexpected and not mismatched:
        return None
    return Explanation(
        kind="index-shift",
        cause="sequential-index-shift",
        missing=missing,
        unexpected=unexpected,
        mismatched=mismatched,
        pairs=tuple(joined),
        certain=False,  # equal blocks can be told apart by their order only
        about={
            "container": prefix.rstrip("."),
            "moves": tuple(p for p in pairs if p[0] != p[1]),
            "new": tuple(sorted(fresh)),
        },
    )


# ---------------------------------------------------------------- buffers


def _match_buffers(board: _Board) -> None:
    """Auxiliary state: loss weights, metric states, profiler counters, constants of libraries."""
    patterns = data.load("key_patterns")
    loss, metrics = patterns["loss_modules"], patterns["metrics"]
    counters = set(patterns["profiler_counters"]["names"])
    library = {b["name"]: b["cause"] for b in patterns["library_buffers"]}
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for key in (*board.missing, *board.unexpected):
        owner, _, leaf = key.rpartition(".")
        last = owner.rpartition(".")[2].lower()
        if leaf in counters:
            groups[("counter", patterns["profiler_counters"]["cause"])].append(key)
        elif leaf in library:
            groups[("library-buffer", library[leaf])].append(key)
        elif leaf in loss["states"] and any(re.search(loss["pattern"], s.lower()) for s in owner.split(".")):
            groups[("loss-buffer", loss["cause"])].append(key)
        elif (
            leaf in metrics["states"]
            and (re.search(metrics["modules"], owner.lower()) or _is_metric(board, owner))
            and last
        ):
            groups[("metric-state", metrics["cause"])].append(key)
    for (kind, cause), keys in groups.items():
        board.add(
            Explanation(
                kind=kind,
                cause=cause,
                missing=tuple(k for k in keys if k in board.missing),
                unexpected=tuple(k for k in keys if k in board.unexpected),
            )
        )


def _is_metric(board: _Board, owner: str) -> bool:
    module = board.modules.get(owner)
    return module is not None and module.class_path.startswith("torchmetrics.")


# ---------------------------------------------------------------- shapes


def _match_shapes(board: _Board) -> None:
    """Sort shape differences by what a person would call them."""
    positions = re.compile(data.load("key_patterns")["position_names"]["pattern"])
    groups: dict[str, list[Mismatch]] = defaultdict(list)
    for m in board.mismatched.values():
        groups[_shape_kind(board, m, positions)].append(m)
    _promote_tables(board, groups)
    # One differing dimension that runs through the model is a width, whatever single layers look like.
    if groups.get("size") and groups.get("rows"):
        groups["size"] = [m for m in board.mismatched.values() if m in groups["size"] or m in groups.pop("rows", [])]
    if groups.get("rows"):
        rows = groups.pop("rows")
        kind = "head" if _is_head(board, rows) else "size"
        groups[kind] = [*groups.get(kind, []), *rows]
    causes = {
        "head": "size-mismatch-head",
        "vocabulary": "size-mismatch-vocab",
        "positions": "size-mismatch-pos-embed",
        "kernel": "size-mismatch-kernel",
        "transposed": "conv1x1-vs-linear",
        "channels": "size-mismatch-in-channels",
        "size": "size-mismatch-width-depth",
    }
    for kind, cause in causes.items():
        if groups.get(kind):
            board.add(Explanation(kind=kind, cause=cause, mismatched=tuple(groups[kind])))


def _shape_kind(board: _Board, m: Mismatch, positions: re.Pattern[str]) -> str:
    saved, wanted = m.saved, m.wanted
    if _numel(saved) == _numel(wanted) and len(saved) >= 2 and saved == wanted[::-1]:
        return "transposed"
    if _numel(saved) == _numel(wanted) and _squeezed(saved) == _squeezed(wanted):
        return "transposed"
    if positions.search(m.key.lower()):
        return "positions"
    if len(saved) == len(wanted) >= 3 and saved[:2] == wanted[:2]:
        return "kernel"
    if len(saved) == len(wanted) >= 1 and saved[1:] == wanted[1:]:
        return "rows"
    if len(saved) == len(wanted) >= 3 and saved[:1] == wanted[:1] and saved[2:] == wanted[2:]:
        return "channels"
    return "size"


def _numel(shape: Shape) -> int:
    n = 1
    for s in shape:
        n *= s
    return n


def _squeezed(shape: Shape) -> Shape:
    return tuple(s for s in shape if s != 1)


def _promote_tables(board: _Board, groups: dict[str, list[Mismatch]]) -> None:
    """Rows of an embedding, and of the output layer that has as many: a vocabulary."""
    rows = groups.get("rows", [])
    tables = [m for m in rows if len(m.saved) == 2 and _class(board, m.key).endswith("Embedding")]
    if not tables:
        return
    sizes = {(m.saved[0], m.wanted[0]) for m in tables}
    groups["vocabulary"] = [m for m in rows if (m.saved[0], m.wanted[0]) in sizes]
    groups["rows"] = [m for m in rows if m not in groups["vocabulary"]]


def _class(board: _Board, key: str) -> str:
    module = board.modules.get(key.rpartition(".")[0])
    return "" if module is None else module.class_path


def _is_head(board: _Board, rows: Sequence[Mismatch]) -> bool:
    """Whether only output layers differ: no module behind them takes what they give out."""
    owners = {m.key.rpartition(".")[0] for m in rows}
    order = list(dict.fromkeys(k.rpartition(".")[0] for k in board.params if board.params[k].persistent))
    last = max((i for i, o in enumerate(order) if o in owners), default=-1)
    weights = [m for m in rows if len(m.saved) >= 2]
    behind = [board.wanted(k) or () for k in board.params if k.rpartition(".")[0] in order[last + 1 :]]
    if any(len(s) == 2 and s[1] in {m.wanted[0] for m in weights} for s in behind):
        return False
    sizes = {(m.saved[0], m.wanted[0]) for m in rows}
    return bool(weights) and len(sizes) <= max(1, len(weights)) and len(owners) <= max(2, len(order) // 4)


# ---------------------------------------------------------------- the rest


def _match_rest(board: _Board) -> None:
    """What is left over is a layer that one side has and the other has not."""
    for keys, kind, cause, present in (
        (board.missing, "added", "layer-added", board.entries.keys()),
        (board.unexpected, "removed", "layer-removed", {k for k, p in board.params.items() if p.persistent}),
    ):
        if keys:
            groups = _top_modules(keys, present)
            board.add(
                Explanation(
                    kind=kind,
                    cause=cause,
                    missing=tuple(keys) if kind == "added" else (),
                    unexpected=tuple(keys) if kind == "removed" else (),
                    about={"groups": groups},
                )
            )


def _top_modules(keys: Iterable[str], present: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Keys grouped by the topmost module of which the other side has nothing; single tensors by themselves."""
    prefixes: set[str] = {""}
    for key in present:
        parts = key.split(".")
        prefixes.update(".".join(parts[:i]) for i in range(1, len(parts)))
    groups: dict[str, list[str]] = defaultdict(list)
    for key in keys:
        parts = key.split(".")
        top = next((".".join(parts[:i]) for i in range(1, len(parts)) if ".".join(parts[:i]) not in prefixes), key)
        groups[top].append(key)
    return {top: tuple(ks) for top, ks in groups.items()}


_MATCHERS = (
    _match_wrappers,
    _match_tied,
    _match_weight_norm,
    _match_norm_kind,
    _match_fused,
    _match_attribute_prefix,
    _match_index_shift,
    _match_renames,
    _match_buffers,
    _match_shapes,
    _match_rest,
)
