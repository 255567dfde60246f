"""Compare the diagnosis of broken files with what is known of them: ``python check_broken.py CORPUS CROSSWALK``.

CORPUS/broken holds the files, CORPUS/sources/models.py the model that they were made from. CROSSWALK is a JSON file
whose ``broken`` says of each file which causes are right answers (``accept``), whether it loads (``verdict``), how safe
it is (``safety``) and how many of its tensors the file alone gives back (``recoverable``: all, some, none). Prints a
line for each file and exits with 1 if any answer is not among the right ones. Needs torch, to describe the model.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from relight import api

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from broken_facts import answers

_MODEL = "models.py:FullModel"


def main() -> int:
    """Compare, print, and give the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("crosswalk", type=Path)
    options = parser.parse_args()
    known = json.loads(options.crosswalk.read_text())["broken"]
    folder = (options.corpus / "broken").resolve()
    os.chdir(options.corpus / "sources")
    spec = api.spec(_MODEL)
    wrong = 0
    for name, truth in known.items():
        told = list(answers(folder / name, spec, truth))
        bad = [(question, answer, right) for question, answer, right in told if answer not in right]
        wrong += bool(bad)
        print(f"{'WRONG' if bad else 'right':<6} {name:<32} " + ", ".join(answer for _, answer, _ in told))
        for question, answer, right in bad:
            print(f"       {question}: {answer}, right would be {' or '.join(right)}")
    print(f"{len(known) - wrong} of {len(known)} right")
    return 1 if wrong or not known else 0


if __name__ == "__main__":
    sys.exit(main())
