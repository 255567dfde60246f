"""Resume the scenarios of a corpus whose layout changed, for real: ``python check_refactored.py CORPUS``.

Each is repaired by ``relight fix --for resume``, with what only a user can know given by name, and resumed by the real
Trainer for ten more steps; so is the unrefactored model, from the file as it was. Right is: both start at the same epoch
and step, every moment is one that the file had, and where the function is still the same, so are the losses of all ten
steps. Those for which they cannot be, and why, are in tests/support/refactored.py.

Everything is unpickled and imported here: only for a corpus that you trust. Exits with 1 if one of them is wrong.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import tempfile
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from refactored import REFACTORINGS, STEPS, Refactoring, outcome

from relight.core.errors import RelightError


def main() -> int:
    """Resume all of them, print a table, and give the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument(
        "--table", type=Path, help="Also write the rows into the file that docs/resuming.md is made of."
    )
    args = parser.parse_args()
    corpus = args.corpus.resolve()
    sys.path[:0] = [str(corpus / "scenarios"), str(corpus / "sources")]
    os.environ["PYTHONPATH"] = str(corpus / "sources")  # for the child that builds the model
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    import torch

    torch.set_num_threads(1)
    rows = [_row(case, corpus) for case in REFACTORINGS if (corpus / "scenarios" / f"{case.name}.json").is_file()]
    wrong = [row for row in rows if row["wrong"]]
    for row in wrong:
        print(f"{row['name']}: {row['wrong']}")
    same = [row for row in rows if not row["differs"]]
    print(
        f"{len(rows) - len(wrong)} of {len(rows)} resume where the training stood, with their moments; losses of "
        f"{STEPS} more steps are equal in {sum(row['equal'] == STEPS for row in same)} of {len(same)} that compute the same"
    )
    if args.table:
        args.table.write_text(json.dumps(rows, indent=1) + "\n")
    return 1 if wrong or not rows else 0


def _row(case: Refactoring, corpus: Path) -> dict[str, object]:
    file = corpus / json.loads((corpus / "scenarios" / f"{case.name}.json").read_text())["checkpoint"]
    options = [f"--rename {old}={new}" for old, new in case.rename.items()] + [f"--allow {name}" for name in case.allow]
    row: dict[str, object] = {"name": case.name, "what": case.what, "options": options, "differs": case.differs}
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = outcome(case, file, f"{corpus / 'scenarios' / case.name}.py:Model", Path(folder))
        except (RelightError, RuntimeError, ValueError, KeyError) as error:
            return {**row, "wrong": f"{type(error).__name__}: {str(error).splitlines()[0]}", "equal": 0, "at": None}
    row |= {"wrong": found.wrong(case), "equal": found.equal, "at": list(found.at or ()), "written": found.written}
    print(f"{case.name}: starts at {found.at}, losses equal for {found.equal} steps", flush=True)
    return row


if __name__ == "__main__":
    sys.exit(main())
