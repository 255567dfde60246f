"""RL513."""

from __future__ import annotations

import re
from collections.abc import Iterator

from relight.core.finding import Evidence, Finding, Fix, FixKind, Prediction, Stage
from relight.core.target import Intent, IntentCall
from relight.facts.facts import Facts
from relight.rulekit import Fires, Phase, Rule, Silent

_KNOWN = (".csv", ".yml", ".yaml")
# What yaml.full_load makes of tags of Python. Source: PyYAML 5.4 and newer, yaml/constructor.py, FullConstructor.
_TAG = re.compile(r"!!python/(?!(?:none|bool|str|unicode|bytes|int|long|float|complex|list|tuple|dict)\b)[\w/:.]+")


class HparamsFileUnreadable(Rule):
    """The file that hparams_file names cannot be read by Lightning.

    What it checks
    --------------
    Its ending, and tags of Python objects in it, read as text.

    Why loading fails
    -----------------
    Lightning takes ``.csv``, ``.yml`` and ``.yaml`` only. Loggers write tuples, paths and objects with tags of Python;
    those of objects are refused: ``yaml.constructor.ConstructorError: could not determine a constructor for the tag
    'tag:yaml.org,2002:python/object/apply:pathlib.PosixPath'``.

    How to fix
    ----------
    Write the value as plain text, or take the line out and pass the argument to the call.

    References
    ----------
    pytorch_lightning/core/saving.py, ``load_hparams_from_yaml``; PyYAML, ``FullConstructor``.
    """

    code = "RL513"
    name = "hparams-file-unreadable"
    causes = ("hparams-yaml-constructor", "hparams-file-suffix")
    phase = Phase.CONTENTS
    examples = (
        Fires(
            name="an object of Python",
            hparams_file=("hparams.yaml", "root: !!python/object/apply:pathlib.PosixPath\n- data\nwidth: 8\n"),
            cause="hparams-yaml-constructor",
        ),
        Fires(name="another ending", hparams_file=("hparams.json", '{"width": 8}'), cause="hparams-file-suffix"),
        Silent(name="plain values", hparams_file=("hparams.yaml", "width: 8\n")),
        Silent(name="a tuple, which is read", hparams_file=("hparams.yml", "sizes: !!python/tuple\n- 1\n- 2\n")),
        Silent(name="a tag in a comment", hparams_file=("hparams.yaml", "width: 8  # !!python/object/apply:x\n")),
        Silent(name="a table", hparams_file=("tags.csv", "key,value\nwidth,8\n")),
        Silent(
            name="plain torch.load, which takes none",
            hparams_file=("hparams.json", "{}"),
            intent=Intent(call=IntentCall.WEIGHTS),
        ),
        Silent(name="none given"),
    )

    def check(self, facts: Facts) -> Iterator[Finding]:
        """The ending first."""
        path = facts.question.hparams_file
        if path is None or facts.intent.call is not IntentCall.LOAD:
            return
        if not path.lower().endswith(_KNOWN):
            yield self.finding(
                "hparams_file has an ending that Lightning does not read: it takes .csv, .yml and .yaml",
                cause="hparams-file-suffix",
                evidence=[Evidence("hparams_file", facts.display(path))],
                fixes=[
                    Fix(title="Write the arguments as YAML, or pass them to the call one by one.", kind=FixKind.CODE)
                ],
                subjects=[path],
                predicts=Prediction(
                    Stage.CONSTRUCT, facts.call_name, "ValueError", ".csv, .yml or .yaml is required for `hparams_file`"
                ),
            )
            return
        found = [] if path.lower().endswith(".csv") else list(_tags(facts.text_of(path)))
        if found:
            tag = found[0][1].removeprefix("!!")
            yield self.finding(
                f"hparams_file holds {'an object' if len(found) == 1 else f'{len(found)} objects'} of Python",
                cause="hparams-yaml-constructor",
                evidence=[Evidence(f"{facts.display(path)}:{line}", text) for line, text in found[:5]],
                fixes=[
                    Fix(
                        title="Write the value as plain text in that line, or take it out and pass the argument to the call.",
                        kind=FixKind.CODE,
                    )
                ],
                subjects=[path],
                predicts=Prediction(
                    Stage.CONSTRUCT,
                    facts.call_name,
                    "yaml.constructor.ConstructorError",
                    f"could not determine a constructor for the tag 'tag:yaml.org,2002:{tag}'",
                ),
            )


def _tags(text: str | None) -> Iterator[tuple[int, str]]:
    for number, line in enumerate((text or "").splitlines(), 1):
        match = _TAG.search(re.sub(r"(^|\s)#.*", "", line))
        if match is not None:
            yield number, match.group()
