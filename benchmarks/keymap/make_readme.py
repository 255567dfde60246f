"""Check all cases again and write the table of README.md. Needs torch only."""

import gzip
import json
from pathlib import Path

import tracing as T

FAMILIES = (
    ("timm0", "make_timm_versions.py"),
    ("tv-", "make_torchvision.py"),
    ("litgpt", "make_litgpt.py"),
    ("hf4-to-hf5", "make_transformers5.py"),
    ("monai", "make_monai.py"),
    ("peft", "make_clip_peft.py"),
    ("open-clip-vit", "make_clip_peft.py"),
    ("open-clip-rn", "make_clip_peft.py"),
    ("-weights-for-", "make_limits.py"),
    ("to-diffusers", "make_diffusers.py"),
    ("open-clip-text", "make_diffusers.py"),
    ("", "make_hf_scripts.py"),
)


def main():
    rows, made = [], 0
    for path in sorted((T.HERE / "cases").glob("*.json.gz")):
        case = json.loads(gzip.decompress(path.read_bytes()))
        T.check(case)
        made += len(case["target"])
        ops: dict = {}
        for key, e in case["truth"].items():
            name = "+".join(o.split(":")[0] for o in e["op"].split("+"))
            if name == "copy" and e["from"] != [key]:
                name = "rename"
            ops[name] = ops.get(name, 0) + 1
        script = next(s for part, s in FAMILIES if part in case["id"])
        packages = case["notes"].split(". ", 1)[0] if ". " in case["notes"] else case["notes"].rstrip(".")
        text = ", ".join(f"{n} {c}" for n, c in sorted(ops.items(), key=lambda i: -i[1]))
        keys = f"{len(case['source'])} to {len(case['target'])}"
        rows.append((script, f"| `{case['id']}` | {case['title']} | {packages} | {keys} | {text} |"))
    out = []
    for script in dict.fromkeys(s for s, _ in sorted(rows)):
        part = [r for s, r in rows if s == script]
        out += [
            f"### `{script}`, {len(part)} cases",
            "",
            "| id | what | packages | keys | ops |",
            "|---|---|---|---|---|",
            *part,
            "",
        ]
    file = Path(T.HERE, "README.md")
    head = file.read_text().split("## Cases")[0]
    file.write_text(
        head
        + f"## Cases\n\n{len(rows)} cases, {made} target keys. `copy`: same key, `rename`: a copy under another key.\n\n"
        + "\n".join(out)
    )
    print(len(rows), made)


if __name__ == "__main__":
    main()
