"""Who wrote a file: versions of Lightning, torch, python and numpy, stated or bounded, each with its evidence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from relight.core.checkpoint import Checkpoint, Layout
from relight.facts.lightning import VERSION_KEY, LightningView


@dataclass(frozen=True, slots=True)
class Produced:
    """What is known of one package's version.

    Attributes:
        exact: The version, where the file states it.
        at_least: A lower bound, None if there is none.
        below: An upper bound (exclusive), None if there is none.
        evidence: What shows it.
    """

    exact: str | None = None
    at_least: str | None = None
    below: str | None = None
    evidence: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {"exact": self.exact, "at_least": self.at_least, "below": self.below, "evidence": self.evidence}

    def __str__(self) -> str:
        if self.exact is not None:
            return self.exact
        if self.at_least and self.below:
            return f"{self.at_least} or newer, before {self.below}"
        return f"{self.at_least} or newer" if self.at_least else f"before {self.below}" if self.below else "unknown"


def producer(checkpoint: Checkpoint) -> dict[str, Produced]:
    """Versions by package; a package of which nothing is known is left out."""
    out: dict[str, Produced] = {}
    view = LightningView(checkpoint)
    if view.version is not None:
        out["lightning"] = Produced(exact=view.version, evidence=f"{VERSION_KEY} in the file")
    elif view.kind == "lightning":
        out["lightning"] = Produced(below="0.8.0", evidence=f"no {VERSION_KEY}, which 0.8.0 brought")
    torch = _torch(checkpoint)
    if torch is not None:
        out["torch"] = torch
    names = {g.full_name for g in checkpoint.globals}
    if any(n.startswith("numpy._core.") for n in names):
        out["numpy"] = Produced(at_least="2.0.0", evidence="names numpy._core, which numpy 2.0 pickles")
    elif any(n.startswith("numpy.core.") for n in names):
        out["numpy"] = Produced(below="2.0.0", evidence="names numpy.core, which numpy before 2.0 pickles")
    if any(n.startswith("pathlib._local.") for n in names):
        out["python"] = Produced(at_least="3.13", below="3.14", evidence="names pathlib._local, which only 3.13 has")
    return out


def _torch(checkpoint: Checkpoint) -> Produced | None:
    """From the layout and the records beside data.pkl.

    Source: torch/serialization.py and caffe2/serialize/inline_container.cc of the versions named.
    """
    records = {r.name for r in checkpoint.records}
    if checkpoint.layout is Layout.TORCH_ZIP:
        for record, version in (
            (".storage_alignment", "2.3"),
            (".format_version", "2.3"),
            ("byteorder", "2.1"),
            (".data/serialization_id", "2.1"),
        ):
            if record in records:
                return Produced(at_least=version, evidence=f"the record {record}")
        return Produced(at_least="1.4", evidence="the zip layout")
    if checkpoint.layout is Layout.TORCH_LEGACY:
        return Produced(at_least="0.1.10", evidence="the stacked-pickle layout (the default before 1.6)")
    if checkpoint.layout is Layout.TORCH_TAR:
        return Produced(below="0.2", evidence="the tar layout")
    return None
