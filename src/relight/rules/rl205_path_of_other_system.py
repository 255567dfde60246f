"""RL205."""

from __future__ import annotations

from collections.abc import Iterator

from relight.core.finding import Applicability, Evidence, Finding, Fix, FixKind
from relight.core.target import Intent, IntentCall
from relight.facts import unpickling
from relight.facts.facts import Facts
from relight.rulekit import Env, File, Fires, Obj, Phase, Rule, Silent

_POSIX = {"root": Obj("pathlib.PosixPath", args=("data", "train"))}
_WINDOWS = {"root": Obj("pathlib.WindowsPath", args=("data", "train"))}
_TORCH = Intent(call=IntentCall.WEIGHTS, weights_only=False)


class PathOfOtherSystem(Rule):
    """The file holds a path object of another operating system.

    What it checks
    --------------
    Objects of ``pathlib.PosixPath`` and ``WindowsPath`` that unpickling would make, against the system here. Where
    ``weights_only=True`` is in effect such objects are refused on every system, which another rule says.

    Why loading fails
    -----------------
    Each of the two classes can be made on its own kind of system only: ``NotImplementedError: cannot instantiate
    'PosixPath' on your system`` (``UnsupportedOperation`` since Python 3.13).

    How to fix
    ----------
    Let the foreign class stand for the own one while loading. For files to come, save ``str(path)``.

    References
    ----------
    The Python documentation of pathlib, "Concrete paths".
    """

    code = "RL205"
    name = "path-of-other-system"
    causes = ("posixpath-on-windows", "windowspath-on-posix")
    phase = Phase.CONTENTS
    needs = frozenset({"contents", "environment"})
    examples = (
        Fires(
            name="a path of Windows on Linux",
            file=File(hparams=_WINDOWS),
            intent=Intent(weights_only=False),
            cause="windowspath-on-posix",
        ),
        Fires(
            name="a path of Windows on Linux, plain torch.load",
            file=File(extra={"root": _WINDOWS["root"]}),
            intent=_TORCH,
            cause="windowspath-on-posix",
        ),
        Fires(
            name="a path of Linux on Windows",
            file=File(hparams=_POSIX),
            env=Env(platform="win32"),
            intent=Intent(weights_only=False),
            cause="posixpath-on-windows",
        ),
        Silent(name="a path of Linux on Linux", file=File(hparams=_POSIX), intent=Intent(weights_only=False)),
        Silent(
            name="a path that is no file of a system",
            file=File(hparams={"root": Obj("pathlib.PureWindowsPath", args=("data",))}),
            intent=Intent(weights_only=False),
        ),
        Silent(
            name="a path of Windows on Windows",
            file=File(hparams=_WINDOWS),
            env=Env(platform="win32"),
            intent=Intent(weights_only=False),
        ),
        Silent(name="refused before it is made", file=File(hparams=_WINDOWS)),
    )

    def check(self, facts: Facts) -> Iterator[Finding]:
        """One finding for all of them."""
        if facts.weights_only is not False:
            return
        found = [r for r in facts.resolutions if unpickling.foreign_path(r, facts.environment)]
        for r in found[:1]:
            other = r.ref.name
            own = "PosixPath" if other == "WindowsPath" else "WindowsPath"
            yield self.finding(
                f"a {other} in the file cannot be made on this system",
                cause="windowspath-on-posix" if other == "WindowsPath" else "posixpath-on-windows",
                evidence=[
                    Evidence(
                        str(r.path) if r.path is not None else "the file", f"is {unpickling.describe(r.ref, r.value)}"
                    )
                ],
                fixes=[
                    Fix(
                        title=f"Let {own} stand for it while loading:",
                        kind=FixKind.CODE,
                        applicability=Applicability.SAFE,
                        code=f"import pathlib\npathlib.{other} = pathlib.{own}\nmodel = {facts.question.load_call()}",
                        note="The path keeps the separators that it was saved with.",
                    )
                ],
                subjects=[r.ref.full_name],
                explains=[r.ref.full_name],
                predicts=facts.unpickling,
            )
