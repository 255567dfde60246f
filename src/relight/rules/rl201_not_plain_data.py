"""RL201."""

from __future__ import annotations

from collections.abc import Iterator

from relight.core.finding import Applicability, Evidence, Finding, Fix, FixKind
from relight.core.objects import Global
from relight.core.safety import Safety
from relight.core.target import Intent, IntentCall
from relight.facts import data, describe, imports, plain_copy, safety, unpickling
from relight.facts.facts import Facts
from relight.rulekit import Env, File, Fires, Model, Obj, Phase, Ref, Rule, Silent

_MOST_NAMES = 16
_OLD = Env(packages={"torch": "2.5.1", "lightning": "2.5.6", "pytorch-lightning": "2.5.6"})
_LONG4 = 0x8B
_ASKS = """\
class MyModel:
    def __init__(self, args):
        if isinstance(args, Namespace):
            args = vars(args)
"""


def _np_scalar(module: str) -> Obj:
    return Obj(
        f"{module}.scalar",
        args=(Obj("numpy.dtype", args=("f8", False, True)), Obj("_codecs.encode", args=("\0" * 8, "latin1"))),
    )


class NotPlainData(Rule):
    """The file holds objects that the safe unpickler refuses.

    What it checks
    --------------
    Every name in the pickle, and every opcode, against what torch's ``weights_only=True`` accepts; and whether the
    call uses it: torch.load since torch 2.6, load_from_checkpoint and Trainer since Lightning 2.6.

    Why loading fails
    -----------------
    The safe unpickler builds tensors, numbers, strings and a few containers. At the first other name it stops with
    ``Unsupported global: GLOBAL argparse.Namespace was not an allowed global by default``. The weights are fine.

    How to fix
    ----------
    Write a copy in which they are plain data that answers the same questions: a Namespace stays usable by attribute.
    Where the class asks for more (``isinstance``, functions of OmegaConf), its line is shown, and it is done by name only.
    Or, for a file of your own, pass ``weights_only=False``, or allow exactly the names that the file needs: all of them
    are listed here, where torch names only the first. Hyper_parameters that are plain values never meet this.

    References
    ----------
    torch/_weights_only_unpickler.py; release notes of torch 2.6 and Lightning 2.6.
    """

    code = "RL201"
    name = "not-plain-data"
    causes = (
        *dict.fromkeys(p["cause"] for p in data.load("blocked_causes")["patterns"]),
        "wo-early-reader-opcode",
        "wrong-pickle-protocol",
        "huge-int-in-pickle",
        "legacy-tar-format",
        "wo-blocked-module",
    )
    phase = Phase.CONTENTS
    needs = frozenset({"contents", "environment"})
    examples = (
        Fires(
            name="a Namespace in the hyper_parameters",
            file=File(hparams={"args": Obj("argparse.Namespace", {"width": 8, "lr": 0.1})}),
            cause="wo-namespace",
        ),
        Fires(
            name="a path, plain torch.load",
            file=File(hparams={"data_dir": Obj("pathlib.PosixPath", args=("data",))}),
            cause="wo-pathlib",
            intent=Intent(call=IntentCall.WEIGHTS),
        ),
        Fires(
            name="asked for by argument",
            file=File(hparams={"args": Obj("argparse.Namespace", {"width": 8})}),
            env=_OLD,
            intent=Intent(call=IntentCall.WEIGHTS, weights_only=True),
            oracle=False,  # another torch than the one installed for tests
        ),
        Fires(
            name="a number of 2,000 bits and more", file=File(hparams={"seed": 1 << 2500}), cause="huge-int-in-pickle"
        ),
        Fires(name="a tar archive of the oldest torch", file=File(tar=True), cause="legacy-tar-format"),
        Silent(name="a tar archive, switched off", file=File(tar=True), intent=Intent(weights_only=False)),
        Silent(name="a tar archive in an older torch", file=File(tar=True), env=_OLD),
        Fires(
            name="a number of numpy",
            file=File(hparams={"lr": _np_scalar("numpy._core.multiarray")}),
            cause="wo-numpy",
        ),
        Fires(
            name="a number of an older numpy",
            file=File(hparams={"lr": _np_scalar("numpy.core.multiarray")}),
            cause="wo-numpy",
        ),
        Fires(
            name="an optimizer that is still to be made",
            file=File(hparams={"optimizer": Obj("functools.partial", args=(Ref("torch.optim.adam.Adam"),))}),
            cause="wo-partial",
            oracle=False,  # a partial wants its state in the file, which recipes do not write
        ),
        Fires(
            name="a loss", file=File(hparams={"loss": Obj("torch.nn.modules.loss.MSELoss", {})}), cause="wo-nn-module"
        ),
        Fires(
            name="a configuration of OmegaConf",
            file=File(extra={"kind": Ref("omegaconf.dictconfig.DictConfig")}),
            cause="wo-omegaconf",
        ),
        Fires(
            name="a dict of Lightning",
            file=File(hparams={"cfg": Obj("pytorch_lightning.utilities.parsing.AttributeDict", {})}),
            cause="wo-lightning-classes",
        ),
        Fires(
            name="a dict with a default",
            file=File(extra={"seen": Obj("collections.defaultdict", args=(Ref("builtins.list"),))}),
            cause="wo-collections",
        ),
        Fires(
            name="a member of the user's enum",
            file=File(hparams={"mode": Obj("example_module.Mode", args=("train",))}),
            cause="wo-enum-dataclass",
        ),
        Fires(
            name="a class of the script that saved",
            file=File(hparams={"cfg": Obj("__main__.Config", {"width": 8})}),
            env=Env(modules=("torch", "lightning", "pytorch_lightning")),
            cause="wo-enum-dataclass",
        ),
        Fires(
            name="a date",
            file=File(hparams={"day": Obj("datetime.date", args=(2024, 1, 1))}),
            cause="wo-getattr-method",
        ),
        Fires(
            name="a distribution of torch",
            file=File(hparams={"prior": Obj("torch.distributions.normal.Normal", {})}),
            cause="wo-tensor-subclass",
        ),
        Fires(name="a function of the system", file=File(extra={"x": Ref("os.getcwd")}), cause="wo-blocked-module"),
        Fires(
            name="a float, and torch 1.13",
            file=File(hparams={"lr": 0.1}),
            env=Env(packages={"torch": "1.13.1", "pytorch-lightning": "1.9.5"}),
            intent=Intent(call=IntentCall.WEIGHTS, weights_only=True),
            cause="wo-early-reader-opcode",
        ),
        Fires(
            name="a pickle of another protocol",
            file=File(protocol=4),
            cause="wrong-pickle-protocol",
        ),
        Fires(
            name="a Namespace, and a class that asks whether it is one",
            file=File(hparams={"args": Obj("argparse.Namespace", {"width": 8})}),
            env=Env(sources={"models.py": _ASKS}),
            model=Model(init=("args",)),
            cause="wo-namespace",
        ),
        Silent(
            name="a pickle of another protocol, read without the safe unpickler",
            file=File(protocol=4),
            intent=Intent(weights_only=False),
        ),
        Silent(
            name="a float, and torch 2.0",
            file=File(hparams={"lr": 0.1}),
            env=Env(packages={"torch": "2.0.1", "pytorch-lightning": "2.0.9"}),
            intent=Intent(call=IntentCall.WEIGHTS, weights_only=True),
        ),
        Silent(
            name="containers that torch knows",
            file=File(
                extra={"seen": Obj("collections.Counter", args=({"a": 1},)), "order": Ref("collections.OrderedDict")}
            ),
        ),
        Silent(name="plain values", file=File(hparams={"width": 8, "layers": [1, 2], "name": "x", "scale": 0.5})),
        Silent(
            name="switched off by argument",
            file=File(hparams={"args": Obj("argparse.Namespace", {"width": 8})}),
            intent=Intent(weights_only=False),
        ),
        Silent(
            name="an older Lightning, which does not ask for it",
            file=File(hparams={"args": Obj("argparse.Namespace", {"width": 8})}),
            env=_OLD,
        ),
        Silent(
            name="a class that cannot be imported either",
            file=File(hparams={"layer": Obj("gone_module.Layer", {"dim": 2})}),
        ),
    )

    def check(self, facts: Facts) -> Iterator[Finding]:
        """One finding for all refused names, the first of them named as torch will name it."""
        blocked = facts.blocked
        if facts.refuses_tar:
            yield self.finding(
                "weights_only=True does not read the layout of this file, a tar archive of torch before 0.1.10",
                cause="legacy-tar-format",
                context=["The weights are fine. Saved again, the file has today's layout."],
                fixes=_fixes(facts, []),
                predicts=facts.unpickling,
            )
            return
        if not facts.weights_only or blocked is None:
            return
        absent = {r.ref for r in facts.resolutions if r.found in (imports.Found.NO_MODULE, imports.Found.NO_ATTRIBUTE)}
        names = [n for n in blocked.names if n not in absent]
        if not names and (absent or blocked.opcode is None):
            return  # the rule on missing modules has them all
        places = imports.uses(facts.checkpoint)
        # A helper class (a dtype, an omegaconf node) sits inside an object that is already named: list the outermost.
        inside = [str(r.path) for r in facts.resolutions if r.ref in absent and r.path is not None]
        evidence = _evidence(names, places, inside)
        if names and not evidence:
            return  # parts of an object whose own class is missing: that finding has them
        yield self.finding(
            _message(len(evidence), blocked),
            cause=_cause(names, blocked),
            evidence=evidence[:6],
            context=[*_context(facts, evidence), *_of_the_script(names)],
            fixes=[] if absent else _fixes(facts, names),
            subjects=[n.full_name for n in names],
            explains=[n.full_name for n in names],
            predicts=facts.unpickling,
        )


def _message(count: int, blocked: imports.Blocked) -> str:
    if not blocked.names and blocked.opcode == _LONG4:
        return "a whole number in this file has more than 255 bytes, which weights_only=True does not read"
    if not blocked.names:
        return f"the pickle uses protocol features that weights_only=True does not read (operand {blocked.opcode})"
    return (
        "one object in this file is not plain data"
        if count == 1
        else f"{count} objects in this file are not plain data"
    )


def _cause(names: list[Global], blocked: imports.Blocked) -> str:
    if blocked.opcode == _LONG4:
        return "huge-int-in-pickle"
    if blocked.opcode is not None:
        return "wrong-pickle-protocol" if blocked.opcode in (0x93, 0x94, 0x95) else "wo-early-reader-opcode"
    if blocked.module_blocked:
        return "wo-blocked-module"
    return unpickling.cause_of(names[0])


def _evidence(names: list[Global], places: imports.Places, inside: list[str]) -> list[Evidence]:
    """The outermost objects that hold these names; those within the places of ``inside`` are left out."""
    out: dict[str, Evidence] = {}
    seen = list(inside)
    for ref in names:
        path, value = places.get(ref.full_name, (None, None))
        where = "the file" if path is None else str(path)
        if not any(where == s or where.startswith((s + ".", s + "[")) for s in seen):
            out[where] = Evidence(where, f"is {unpickling.describe(ref, value)}".replace("is names", "names"))
            seen.append(where)
    return list(out.values())


def _context(facts: Facts, evidence: list[Evidence]) -> list[str]:
    by_argument = facts.intent.weights_only is True
    since = (
        "weights_only=True refuses such objects."
        if by_argument
        else "Since torch 2.6 such objects are refused by default."
        if not facts.calls_lightning
        else "Since torch 2.6 and Lightning 2.6 such objects are refused by default."
    )
    verdict = safety.safety(facts.checkpoint)
    weights = "the weights are fine." if facts.checkpoint.tensors else "nothing else is refused."
    only = "It is the only one. " if len(evidence) == 1 else "These are all. "
    if verdict is Safety.DANGEROUS:
        return [since, "Unpickling it would run code that the file chooses: see the finding on that."]
    return [f"{since} {only}{weights[0].upper()}{weights[1:]}"]


def _of_the_script(names: list[Global]) -> list[str]:
    """Whoever unpickles names of ``__main__`` has to have them there."""
    own = [n.name for n in names if n.module == "__main__"]
    if not own:
        return []
    return [
        f"{describe.some(own)} {'was' if len(own) == 1 else 'were'} defined in the script that saved the file: "
        "both ways work only in a script that defines or imports the name itself."
    ]


def _fixes(facts: Facts, names: list[Global]) -> list[Fix]:
    copy = plain_copy.fixes(facts)
    if safety.safety(facts.checkpoint) is Safety.DANGEROUS:
        return copy
    fixes = [
        *copy,
        Fix(
            title=("Or, for" if copy else "For") + " a file of your own, or one that you trust, leave it as it is:",
            kind=FixKind.LOAD_ARGUMENT,
            applicability=Applicability.SAFE,
            code=facts.question.load_call(weights_only=False),
            note="That unpickles everything in the file, which can run code.",
        ),
    ]
    entries = unpickling.allow_list(facts.checkpoint, names, facts.environment) if names else None
    if entries is not None and len(entries) <= _MOST_NAMES:
        modules = sorted({e.module for e in entries if e.module is not None})
        listed = ", ".join(e.expression for e in entries)
        fixes.append(
            Fix(
                title=f"Or allow exactly {'this name' if len(entries) == 1 else f'these {len(entries)} names'}, and nothing else:",
                kind=FixKind.CODE,
                applicability=Applicability.SAFE,
                code=f"import {', '.join([*modules, 'torch'])}\n"
                f"with torch.serialization.safe_globals([{listed}]):\n"
                f"    model = {facts.question.load_call()}",
            )
        )
    return fixes
