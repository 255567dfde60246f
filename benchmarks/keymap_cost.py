"""What mapping keys costs: CPU from 100 to 100,000 keys, beside ``import torch``, in one run.

    python benchmarks/keymap_cost.py

The model is a mixture of experts whose names have all changed: every layer has to be found by its place.
"""

from __future__ import annotations

import gc
import resource
import subprocess
import sys
import time

from relight.facts.mapper.layers import Tensor
from relight.facts.mapper.learning import learn
from relight.facts.mapper.mapping import map_keys


def sides(keys: int) -> tuple[list[Tensor], list[Tensor]]:
    """A checkpoint and a model with about so many keys, under other names."""
    experts = 16 if keys > 1000 else 4
    blocks = max(keys // (3 * experts + 8), 1)
    source = [Tensor("tok.weight", (5000, 64)), Tensor("out.weight", (5000, 64))]
    target = [Tensor("model.embed.weight", (5000, 64)), Tensor("model.lm_head.weight", (5000, 64))]
    for i in range(blocks):
        for mine, theirs, shape in (
            ("attn.wq.weight", "self_attn.q_proj.weight", (64, 64)),
            ("attn.wk.weight", "self_attn.k_proj.weight", (16, 64)),
            ("attn.wv.weight", "self_attn.v_proj.weight", (16, 64)),
            ("attn.wo.weight", "self_attn.o_proj.weight", (64, 64)),
            ("ffn_norm.weight", "post_attention_layernorm.weight", (64,)),
            ("attention_norm.weight", "input_layernorm.weight", (64,)),
            ("ff.router.weight", "moe.gate.weight", (experts, 64)),
        ):
            source.append(Tensor(f"layers.{i}.{mine}", shape))
            target.append(Tensor(f"model.blocks.{i}.{theirs}", shape))
        for e in range(experts):
            for mine, theirs, shape in (
                ("w1", "gate_proj", (96, 64)),
                ("w3", "up_proj", (96, 64)),
                ("w2", "down_proj", (64, 96)),
            ):
                source.append(Tensor(f"layers.{i}.ff.experts.{e}.{mine}.weight", shape))
                target.append(Tensor(f"model.blocks.{i}.moe.expert.{e}.{theirs}.weight", shape))
    return source, target


def main() -> int:
    """Print the table."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", "import torch"], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    torch = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    gc.disable()  # as the command line does: a short process makes no garbage
    print(f"import torch: {torch:.2f} s of CPU")
    print(f"{'keys':>8} {'CPU':>9} {'per key':>10} {'of import torch':>16}  found      then rules of them")
    for keys in (100, 1_000, 12_000, 30_000, 100_000):
        source, target = sides(keys)
        start = time.process_time()
        found = map_keys(source, target)
        cost = time.process_time() - start
        rules = learn(found.pairs.values(), [s.key for s in source])
        learning = time.process_time() - start - cost
        each = cost / len(target) * 1e6
        mapped = f"{len(target):8,} {cost:7.2f} s {each:7.0f} µs {cost / torch:15.2f}x  {len(found.pairs):<9,}"
        print(f"{mapped}  {learning:6.2f} s, {len(rules)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
