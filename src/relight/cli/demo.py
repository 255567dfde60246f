"""``relight demo``."""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import click

from relight import api
from relight.cli import options
from relight.report import text

FILES = Path(__file__).parent / "demo_files"


@dataclass(frozen=True, slots=True)
class Case:
    """One file of the demo.

    Attributes:
        title: What happened to it.
        file: The checkpoint.
        target: What it is loaded into.
        intent: How.
    """

    title: str
    file: str
    target: str | None
    intent: str = "load"

    @property
    def command(self) -> str:
        """The command that does the same."""
        target = f" --target {self.target}" if self.target else ""
        return f"relight check {self.file}{target}" + (f" --for {self.intent}" if self.intent != "load" else "")


CASES = (
    Case("Nothing is wrong", "trained.ckpt", "trained.spec.json"),
    Case("A layer was renamed in the code", "trained.ckpt", "renamed.spec.json"),
    Case("A layer was added to the code", "trained.ckpt", "grown.spec.json"),
    Case("A file that Lightning 0.7 wrote in 2020", "classic.ckpt", "classic.spec.json"),
    Case("A class in the file whose module is gone", "injected.ckpt", "injected.spec.json"),
    Case("A download that broke off", "download.ckpt", "trained.spec.json"),
    Case("A file from a GPU, plain torch.load, no GPU here", "gpu.ckpt", "trained.spec.json", "weights"),
    Case("The same file, load_from_checkpoint", "gpu.ckpt", "trained.spec.json"),
)
LIVE = Case("With torch here: the class itself, built in a child process", "trained.ckpt", "models.py:Grown")


@click.command("demo", context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--copy", metavar="FOLDER", help="Copy the demo's files to a new folder, to try things on them.")
@click.option("--color", type=click.Choice(["auto", "always", "never"]), default="auto", help="Colours.")
def command(copy: str | None, color: str) -> int:
    """Diagnose the bundled broken checkpoints: real files, real models. Needs no torch."""
    if copy is not None:
        try:
            shutil.copytree(FILES, copy, ignore=shutil.ignore_patterns("__pycache__"))
        except FileExistsError:
            raise click.BadParameter(f"{copy!r} is there already", param_hint="--copy") from None
        click.echo(f"Copied to {copy}. Try there:\n  {CASES[1].command}")
        return 0
    style = options.style_for(color, None)
    cases = list(CASES)
    if all(importlib.util.find_spec(name) for name in ("torch", "pytorch_lightning")):
        cases.append(LIVE)
    # In a copy: the commands are the ones that work in the folder of `--copy`, and the history of a checkout is not asked.
    with tempfile.TemporaryDirectory(prefix="relight-demo-") as folder:
        files = Path(folder, "files")
        shutil.copytree(FILES, files, ignore=shutil.ignore_patterns("__pycache__"))
        before = Path.cwd()
        os.chdir(files)
        try:
            for case in cases:
                click.echo(style.paint(f"# {case.title}", "dim"))
                click.echo(style.paint(f"$ {case.command}", "dim"))
                report = api.check(
                    case.file, target=case.target, intent=case.intent, announce=options.announcer(quiet=False)
                )
                click.echo(text.render(report, style))
        finally:
            os.chdir(before)
    click.echo(f"To try things on these files: relight demo --copy FOLDER. They lie in {FILES}.")
    return 0
