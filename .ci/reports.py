"""The published studies: re-run what is stale, and write reports/README.md and reports/index.html.

A published result is stale when the code that it depends on has changed since: the modules of the package, but for
those that only show or command, and its notebook. `--list` shows what is stale and runs nothing."""
import html
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from faceseg.study import study_digest

ROOT = Path(__file__).resolve().parents[1]
BIN, PUBLISHED = Path(sys.executable).parent, ROOT / "reports" / "published"
SHOWN = ("demo",)  # data sets whose photographs may be published: their report is committed as HTML


def study_of(folder, results):
    "The notebook that a result is from."
    return results["provenance"].get("study") or folder.name.split("-")[0]


def is_stale(folder, results):
    "Whether the code of a published result has changed."
    return results["provenance"].get("code") != study_digest(study_of(folder, results))


def run_again(folder, results):
    "Run a published study with its own parameters; its numbers replace the published ones."
    study, out = study_of(folder, results), ROOT / "reports" / "runs" / folder.name
    out.mkdir(parents=True, exist_ok=True)
    options = []
    for name, value in results["parameters"].items():
        if name in ("out_dir", "n_workers"): continue
        options += ["-r" if isinstance(value, str) else "-p", name, str(value)]
    options += ["-r", "out_dir", str(out.relative_to(ROOT)), "-p", "n_workers", str(os.cpu_count())]
    notebook = out / f"{study}.ipynb"
    subprocess.run([BIN / "papermill", "--no-progress-bar", f"nbs/studies/{study}.ipynb", notebook, *options],
                   cwd=ROOT, check=True)
    for name in ("results.json", "results.csv"): shutil.copy(out / name, folder / name)
    if results["parameters"].get("dataset") in SHOWN and "real_dir" not in results["parameters"]:
        subprocess.run([BIN / "jupyter", "nbconvert", "--log-level=WARN", "--to", "html", "--no-input",
                        "--template", "report", "--TemplateExporter.extra_template_basedirs=nbs/studies",
                        "--output-dir", folder, "--output", f"{study}.html", notebook], cwd=ROOT, check=True)


def question(study):
    "The line under the title of a study's notebook."
    cells = json.loads((ROOT / "nbs" / "studies" / f"{study}.ipynb").read_text())["cells"]
    return "".join(cells[0]["source"]).split("> ", 1)[1].splitlines()[0]


def overview():
    "One entry a published study: folder, study, data, headline, date, commit, whether it is stale."
    for path in sorted(PUBLISHED.glob("*/results.json")):
        results = json.loads(path.read_text())
        p, origin = results["parameters"], results["provenance"]
        data = [p.get("dataset", ""), p.get("folder", ""), Path(p.get("data_dir", "")).name]
        yield {"folder": path.parent, "study": study_of(path.parent, results),
               "data": " ".join(part for part in data if part), "headline": results.get("headline", ""),
               "date": origin["finished"][:10], "commit": origin["commit"][:10],
               "stale": is_stale(path.parent, results)}


def headline_table(entries):
    "The studies as a markdown table."
    lines = ["| study | data | what it found | run |", "|---|---|---|---|"]
    for one in entries:
        folder = one["folder"].name
        page = next((f", [report](published/{folder}/{path.name})" for path in one["folder"].glob("*.html")), "")
        old = "; the code has changed since" if one["stale"] else ""
        lines.append(f"| [{one['study']}](../nbs/studies/{one['study']}.ipynb) | {one['data']} | {one['headline']} | "
                     f"{one['date']}, `{one['commit']}`{old} ([numbers](published/{folder}/results.json){page}) |")
    return "\n".join(lines)
