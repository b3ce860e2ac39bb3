"""The published studies: run again what is stale, and write reports/README.md and reports/index.html.

A published result is stale when what it depends on has changed since: its notebook, the modules that it
imports, or the models that ship. `--list` says what is stale, `--write` writes the two pages, and neither
runs anything; names of folders in reports/published run those alone."""
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import mistune
from to_html import write_html

from faceseg.report import headline
from faceseg.study import study_digest

ROOT = Path(__file__).resolve().parents[1]
BIN, PUBLISHED = Path(sys.executable).parent, ROOT / "reports" / "published"
SHOWN = ("khan2015-demo", "failures-demo")  # of rendered faces alone: the reports themselves are published

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>faceseg: published studies</title>
<style>
body {{ max-width: 60rem; margin: 0 auto; padding: 1rem; font: 1rem/1.5 system-ui, sans-serif }}
table {{ border-collapse: collapse; display: block; overflow-x: auto }}
th, td {{ text-align: left; vertical-align: top; padding: .3rem .6rem; border-bottom: 1px solid #d8dee4 }}
</style>
</head>
<body>
{body}</body>
</html>
"""
HEAD = """# Published studies

Each line is a study that was run, with its numbers committed in `results.json`. `make reports` runs again
those whose code has changed since, and writes this page. Reports that show photographs of a data set are not
committed: `make report` makes them. The recipes' scores are in the README of the project.

"""


def study_of(folder, results):
    "The notebook that a result is from."
    return results["provenance"].get("study") or folder.name.split("-")[0]


def run_again(folder, results):
    "Run a published study with its own parameters; its numbers replace the published ones."
    study, out = study_of(folder, results), ROOT / "reports" / "runs" / folder.name
    out.mkdir(parents=True, exist_ok=True)
    # points that took hours are made again only where they are removed; each says which commit made it
    if (folder / "points").is_dir(): shutil.copytree(folder / "points", out / "points", dirs_exist_ok=True)
    options = ["-r", "out_dir", str(out.relative_to(ROOT)), "-p", "n_workers", str(os.cpu_count())]
    for name, value in results["parameters"].items():
        if name in ("out_dir", "n_workers"): continue
        options += ["-r" if isinstance(value, str) else "-p", name, str(value)]
    notebook = out / f"{study}.ipynb"
    subprocess.run([BIN / "papermill", "--no-progress-bar", f"nbs/studies/{study}.ipynb", notebook, *options],
                   cwd=ROOT, check=True)
    for name in ("results.json", "results.csv"):  # the benchmark has no table
        if (out / name).exists(): shutil.copy(out / name, folder / name)
    if folder.name not in SHOWN: return
    write_html(notebook, folder / f"{study}.html")


def data_of(parameters):
    "What a study's data are called, and how many faces it takes where that is not all."
    where = Path(parameters.get("data_dir", "")).name
    names = [where.removesuffix("-repository") or parameters.get("dataset", ""), parameters.get("folder", "")]
    n_train, n_test = parameters.get("n_train"), parameters.get("n_test")
    counts = f"{n_train or 'all'} / {n_test or 'all'}" if n_train or n_test else ""
    return " ".join(part for part in (*names, counts) if part)


def line(folder, results, stale):
    "A study as a row of the table."
    study, origin = study_of(folder, results), results["provenance"]
    pages = [f"[{path.stem}](published/{folder.name}/{path.name})" for path in sorted(folder.glob("*.html"))]
    links = ", ".join([*pages, f"[numbers](published/{folder.name}/results.json)"])
    kept = {point.get("commit", origin["commit"]) for point in results.get("points", ())} - {origin["commit"]}
    older = ", older code" if stale else ", points of older commits" if kept else ""
    when = f"{origin['finished'][:10]}, `{origin['commit'][:10]}`{older}"
    cells = (f"[{study}](../nbs/studies/{study}.ipynb)", data_of(results["parameters"]),
             headline(study, results), when, links)
    return f"| {' | '.join(cells)} |"


def main(wanted, list_only, write_only):
    lines = ["| study | data | what it found | run | |", "|---|---|---|---|---|"]
    paths = sorted(PUBLISHED.glob("*/results.json"))
    if unknown := [name for name in wanted if name not in {path.parent.name for path in paths}]:
        names = ", ".join(path.parent.name for path in paths)
        sys.exit(f"{unknown[0]!r} is no published study; there are: {names}")
    for path in paths:
        folder, results = path.parent, json.loads(path.read_text())
        stale = results["provenance"].get("code") != study_digest(study_of(folder, results))
        if list_only: print(f"{'stale ' if stale else 'as now'} {folder.name}")
        elif not write_only and (folder.name in wanted or (stale and not wanted)):
            print(f"running {folder.name}", flush=True)
            run_again(folder, results)
            results, stale = json.loads(path.read_text()), False
        lines.append(line(folder, results, stale))
    if list_only: return
    text = HEAD + "\n".join(lines) + "\n"
    (ROOT / "reports" / "README.md").write_text(text)
    body = mistune.create_markdown(plugins=["table"])(text)
    (ROOT / "reports" / "index.html").write_text(PAGE.format(body=body))
    print("reports/README.md and reports/index.html are written")


if __name__ == "__main__":
    options = sys.argv[1:]
    main([name for name in options if name[:2] != "--"], "--list" in options, "--write" in options)
