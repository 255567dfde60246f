"""RL906."""

from __future__ import annotations

from collections.abc import Iterator

from relight.core.finding import Evidence, Finding, Fix, FixKind, Severity
from relight.facts.describe import some, tensors
from relight.facts.facts import Facts
from relight.rulekit import File, Fires, Phase, Rule, Silent, manifest

# Digest of two by three zeros, and of two, as the callback makes them.
_ZEROS = {"net.weight": ["0" * 16, "15ad30691266feb1a3f578e9"], "net.bias": ["0" * 16, "30b1f9ce76b07dca9b2bee2f"]}


class WeightsAltered(Rule):
    """Weights are not those that the training program saved: the file was changed afterwards.

    What it checks
    --------------
    The digest of each tensor that the manifest lists: a sample of each, and every byte where the weights are small (up to
    64 MB) or --prove asks for it. Tensors under other names are not looked at.

    Why loading fails
    -----------------
    It does not: torch compares no checksums.

    How to fix
    ----------
    Where nobody meant to change them, take another copy of the file. A program that did should write a manifest of its
    own, or take this one out.

    References
    ----------
    torch/serialization.py: records are read without their checksum.
    """

    code = "RL906"
    name = "weights-altered"
    causes = ("crc-mismatch-silent",)
    severity = Severity.WARNING
    phase = Phase.CONTENTS
    needs = frozenset({"contents", "manifest"})
    examples = (
        Fires(
            name="another value in one tensor",
            file=File(extra=manifest(integrity={**_ZEROS, "net.weight": ["0" * 15 + "1", "0" * 24]})),
            oracle=False,
        ),
        Silent(name="as they were", file=File(extra=manifest(integrity=_ZEROS))),
        Silent(name="a tensor under another name", file=File(extra=manifest(integrity={"old.weight": ["1" * 16, "2" * 24]}))),
        Silent(
            name="digests of another kind",
            file=File(extra=manifest(integrity={"net.weight": ["1" * 16, "2" * 24]}, algorithm="other/9")),
        ),
    )  # fmt: skip

    def check(self, facts: Facts) -> Iterator[Finding]:
        """One finding for all tensors."""
        altered = facts.altered
        if not altered.keys:
            return
        yield self.finding(
            f"{len(altered.keys):,} of {tensors(altered.compared)} {'is' if len(altered.keys) == 1 else 'are'} "
            f"not what was {facts.manifest.verb}",
            evidence=[Evidence(key, "another digest than in the manifest") for key in altered.keys[:5]],
            context=[
                "The manifest in the file has a digest of each tensor, made "
                + ("before it was written. " if facts.manifest.sealed is None else "when it was sealed. ")
                + ("Every byte was compared." if altered.whole else "A sample of each tensor was compared.")
            ],
            fixes=[
                Fix(
                    title="Where nobody meant to change them, take another copy of the file; relight verify compares the "
                    "checksums of its records.",
                    kind=FixKind.DOWNLOAD_AGAIN,
                    command=facts.question.command("verify"),
                )
            ],
            subjects=[*altered.keys] if len(altered.keys) <= 1000 else [some(altered.keys)],
            wrong=True,
        )
