"""The silent scenarios of the corpus, remade with a manifest: ``python check_silent_scenarios.py``.

Each of them changes the code of a model so that ``load_from_checkpoint`` goes through without an error. The unchanged model
is trained here with `relight.CheckpointManifest`; then ``relight check --prove`` is asked about the changed one. What changes
an answer has to be called wrong, by the rule that is named; what changes none has to be let through. Scenarios that only a
resume notices are asked for a load: their weights answer as they did. Exits with 1 if one is not so.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import warnings
from pathlib import Path

CORPUS = Path(__file__).parents[1] / "tests" / "corpus"

# Scenario: the class that was trained, and what an edit of it makes of the model; the rule that has to find it.
CHANGED = {
    "activation_changed": ("models.PlainMLP", "activation-changed"),
}
# The like of it on the other models of the corpus, by one edit of their source each.
EDITED = {
    "activation of the convolutions": ("ConvNet", "nn.ReLU()", "nn.SiLU()", "activation-changed"),
    "activation of the full model": ("FullModel", "nn.ReLU(), nn.Linear(hidden, out_dim)", "nn.Tanh(), nn.Linear(hidden, out_dim)",
                                     "activation-changed"),
    "scale of the answer": ("PlainMLP", "return self.net(x)", "return 2 * self.net(x)", "forward-changed"),
}  # fmt: skip
HARMLESS = {
    "dropout_p_changed": "models.PlainMLP",
    "init_arg_renamed_default": "models.PlainMLP",
    "lazy_modules": "models.PlainMLP",
    "lr_changed": "models.FullModel",
    "param_frozen": "models.FullModel",
    "param_groups_changed": "models.FullModel",
    "param_order_changed_shapes": "models.FullModel",
    "scheduler_changed": "models.FullModel",
    "scheduler_removed": "models.FullModel",
    "optimizer_sgd_to_adam": "models.ConvNet",
    "buffer_became_parameter": "scenario_models.BufNet",
    "weight_norm_new_api": "scenario_models.WeightNormNet",
}


def main() -> int:
    """Train, ask, print, and give the exit status."""
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    warnings.simplefilter("ignore")
    sys.path[:0] = [str(CORPUS / "sources"), str(CORPUS / "scenarios")]
    os.environ["PYTHONPATH"] = os.pathsep.join([*sys.path[:2], os.environ.get("PYTHONPATH", "")])
    import models
    import scenario_models
    import torch

    import relight

    def trained(base: str) -> str:
        path = f"{base}.ckpt"
        if not os.path.exists(path):
            module, _, name = base.rpartition(".")
            torch.manual_seed(0)
            trainer = models.pl.Trainer(
                max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu",
                enable_model_summary=False, callbacks=[relight.CheckpointManifest()],
            )  # fmt: skip
            trainer.fit(getattr({"models": models, "scenario_models": scenario_models}[module], name)())
            trainer.save_checkpoint(path)
        return path

    failed = found = quiet = 0
    source = (CORPUS / "sources" / "models.py").read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory(prefix="relight-silent-") as folder:
        os.chdir(folder)
        asked = [(n, b, f"{CORPUS / 'scenarios' / n}.py:Model", rule) for n, (b, rule) in CHANGED.items()]
        for i, (name, (cls, old, new, rule)) in enumerate(EDITED.items()):
            if old not in source:
                print(f"{name}: {old!r} is not in the source")
                failed += 1
                continue
            Path(f"edited_{i}.py").write_text(source.replace(old, new), encoding="utf-8")
            asked.append((name, f"models.{cls}", f"edited_{i}.py:{cls}", rule))
        asked += [(n, b, f"{CORPUS / 'scenarios' / n}.py:Model", "") for n, b in HARMLESS.items()]
        for name, base, target, rule in asked:
            report = relight.check(trained(base), target=target, prove=True)
            names = [f.name for f in report.findings if f.wrong]
            good = (names == [rule]) if rule else report.verdict.value == "loads"
            failed += not good
            found += good and bool(rule)
            quiet += good and not rule
            print(
                f"{'' if good else 'WRONG: '}{name}: {report.verdict.value}, {', '.join(names) or 'nothing is wrong'}"
            )
    print(f"found {found} of {sum(bool(a[3]) for a in asked)}, let through {quiet} of {len(HARMLESS)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
