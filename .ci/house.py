"The rules of CONTRIBUTING.md for notebooks and modules, as checks: (name, whether it holds, why not)."
import ast
import json
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

WIDTH, CELL, MODULE = 110, 45, 420  # characters of a line, lines of an exported cell, lines of a module
SHOWING = ("print", "display", "show_", "plot_", "Markdown", "HTML")  # functions that make an output
FIGURE = re.compile(r"\bfigures? (shows?|below)|\bin the figure", re.I)
AHEAD = 6  # code cells after a prose cell; one of them has the figure that the prose announces
# names of earlier versions
GONE = ("ask_rows", "walk_tile", "stands_for", "alter_face", "in_place(", "window_range", "held_out(",
        "seed2024", "faceseg.data import", "faceseg.data.", "patch_features", "forest_walk", "keep_older",
        "Together(", "BEST |", "recipe_share")


def notebook_cells(path):
    "The cells of a notebook: (kind, source, outputs)."
    notebook = json.loads(path.read_text())
    return [(cell["cell_type"], "".join(cell["source"]), cell.get("outputs", []))
            for cell in notebook["cells"]]


def is_exported(source): return re.match(r"#\|\s*exporti?\b", source) is not None


def running(body):
    "The statements that run whatever the data are: those of loops too, not of functions and conditions."
    for statement in body:
        yield statement
        if isinstance(statement, (ast.For, ast.With)): yield from running(statement.body)


def called(value):
    "The name of the function that an expression calls, with its module's."
    return ast.unparse(value.func) if isinstance(value, ast.Call) else ""


def displays(source):
    "Whether a cell makes an output when it runs."
    body = ast.parse(source).body
    if not body: return False
    for statement in running(body):
        name = called(getattr(statement, "value", None))
        if name in ("print", "display") or name == "plt.subplots": return True
    last = body[-1]
    if not isinstance(last, ast.Expr) or source.rstrip().endswith(";"): return False
    if isinstance(last.value, ast.Call): return called(last.value).startswith(SHOWING)
    return not isinstance(last.value, (ast.Constant, ast.ListComp))


def has_picture(outputs):
    return any(kind.startswith("image/") for one in outputs for kind in one.get("data", {}))


def check_outputs(path):
    "A notebook is committed executed: what displays something has an output, and no output is an error."
    missing, bad, absent = [], [], []
    cells = notebook_cells(path)
    for i, (kind, source, outputs) in enumerate(cells):
        if kind == "code":
            if displays(source) and not outputs: missing.append(f"cell {i}: {source.splitlines()[-1]}")
            if any(one["output_type"] == "error" or one.get("name") == "stderr" for one in outputs):
                bad.append(f"cell {i}")
        elif kind == "markdown" and FIGURE.search(source):
            following = [out for kind, _, out in cells[i + 1:] if kind == "code"][:AHEAD]
            if not any(map(has_picture, following)): absent.append(f"cell {i}: {source[:100]}")
    yield "what displays something has an output", not missing, missing
    yield "no output is an error or a progress bar", not bad, bad
    yield "figures that the prose announces are there", not absent, absent


def check_notebook(root, path):
    "Lines and exported cells of a notebook."
    long, large = [], []
    for i, (kind, source, _) in enumerate(notebook_cells(path)):
        if kind != "code": continue
        long += [f"cell {i}: {line}" for line in source.splitlines() if len(line) > WIDTH]
        if is_exported(source) and len(lines := source.rstrip().splitlines()) > CELL:
            large.append(f"cell {i}: {len(lines)} lines")
    yield f"lines of at most {WIDTH} characters", not long, long
    yield f"exported cells of at most {CELL} lines", not large, large


def code_lines(path):
    "The lines of a module, without `__all__`, which nbdev writes."
    return re.sub(r"(?ms)^__all__ = \[.*?\]\n", "", path.read_text()).splitlines()


def public_names(path):
    "The names that a module defines for others; methods that are patched into a class are not among them."
    for node in ast.parse(path.read_text()).body:
        names = [name.id for target in getattr(node, "targets", []) for name in ast.walk(target)
                 if isinstance(name, ast.Name)]
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            patched = any("patch" in ast.unparse(one) for one in node.decorator_list)
            names = [] if patched else [node.name]
        yield from (name for name in names if name[0] != "_")


def check_modules(root):
    "Length of modules and their lines; every public name once."
    modules = [path for path in sorted((root / "faceseg").rglob("*.py")) if path.name != "_modidx.py"]
    long = [f"{path.name}: {line}" for path in modules for line in code_lines(path) if len(line) > WIDTH]
    sizes = {path.name: len(path.read_text().splitlines()) for path in modules}
    large = [f"{name}: {n}" for name, n in sizes.items() if n > MODULE]
    defined = defaultdict(list)
    for path in (one for one in modules if one.name != "cli.py"):  # commands may share a function's verb
        for name in public_names(path): defined[name].append(path.stem)
    twice = [f"{name}: {', '.join(where)}" for name, where in defined.items() if len(where) > 1]
    yield f"modules: lines of at most {WIDTH} characters", not long, long
    yield f"modules: at most {MODULE} lines", not large, large
    yield "modules: no public name is defined twice", not twice, twice


def check_order(root):
    "A notebook imports only from notebooks with lower numbers, in the code that it exports."
    wrong = []
    for folder, package in (("nbs", "faceseg"), ("nbs/render", "faceseg.render")):
        number = {p.stem[3:]: int(p.stem[:2]) for p in (root / folder).glob("[0-9]*.ipynb")}
        for path in sorted((root / folder).glob("[0-9]*.ipynb")):
            exported = "\n".join(source for _, source, _ in notebook_cells(path) if is_exported(source))
            for name in re.findall(rf"(?:from|import) {re.escape(package)}\.(\w+)\b(?!\.)", exported):
                if number.get(name, -1) >= number[path.stem[3:]]: wrong.append(f"{path.stem} imports {name}")
    yield "notebooks import from lower numbers", not wrong, wrong


def check_names(root):
    "Names of earlier versions are nowhere."
    folders = ("nbs", "faceseg", ".ci", "reports/published")
    files = [path for folder in folders for path in (root / folder).rglob("*")]
    files += [root / name for name in ("README.md", "Makefile", "pyproject.toml", "CONTRIBUTING.md")]
    files = [path for path in files if path.is_file() and path != Path(__file__).resolve()
             and path.suffix in (".py", ".ipynb", ".md", ".json", ".toml", "")]
    texts = {path.relative_to(root): path.read_text() for path in files}
    found = [f"{path}: {name}" for path, text in texts.items() for name in GONE if name in text]
    yield "names of earlier versions are gone", not found, found


def check_style(root):
    "Unused names and imports, sorted imports and more: the rules in pyproject.toml."
    ruff = Path(sys.executable).with_name("ruff")
    done = subprocess.run([ruff, "check", "--quiet", "--output-format", "concise", "faceseg", "nbs", ".ci"],
                          cwd=root, capture_output=True, text=True)
    yield "ruff finds nothing", done.returncode == 0, [done.stdout + done.stderr]


def checks(root):
    "All checks of the house."
    for part in (check_style, check_modules, check_order, check_names): yield from part(root)
    notebooks = [p for p in sorted((root / "nbs").rglob("*.ipynb")) if ".ipynb_checkpoints" not in p.parts]
    for path in notebooks:
        name = path.relative_to(root)
        parts = [*check_notebook(root, path), *(check_outputs(path) if path.parent.name != "studies" else ())]
        for what, holds, why in parts: yield f"{name}: {what}", holds, why
