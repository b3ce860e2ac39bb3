"""What `make test` runs: the rules of the house, modules against notebooks, all notebooks, and the studies.

Prints a line a check, and last `N passed, M failed`."""
import filecmp
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from house import checks

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
SCRATCH = Path(tempfile.mkdtemp(prefix="faceseg-test-"))
CORES = os.cpu_count() or 1
SLOTS = min(CORES, 4) + 1  # checks that run side by side: one is often waiting, for a kernel or a browser
# a library's own threads would only get in the way of those of other checks
THREADS = {f"{library}_NUM_THREADS": str(max(1, CORES // 2)) for library in ("OMP", "OPENBLAS", "MKL")}
passed, failed = [], []


def run(*command, cwd=ROOT, **environment):
    "Run one of the environment's programs; what it printed is in the result."
    return subprocess.run([str(BIN / command[0]), *map(str, command[1:])], cwd=cwd, capture_output=True,
                          text=True, stdin=subprocess.DEVNULL, env={**os.environ, **THREADS, **environment})


def check(name, ok, why=""):
    "Count a check, and print it."
    (passed if ok else failed).append(name)
    reason = "" if ok else f"\n{why}".replace("\n", "\n       ")
    print(f"{'ok    ' if ok else 'FAILED'} {name}{reason}", flush=True)


def note(text):
    "Print a line that is no check."
    print(f"       {text}", flush=True)


def test_house():
    for name, holds, why in checks(ROOT): check(name, holds, "\n".join(map(str, why[:20])))


def test_exports():
    "Exporting, cleaning and rendering a copy of the tree must change nothing."
    copy, ignored = SCRATCH / "copy", shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
    for name in ("nbs", "faceseg"): shutil.copytree(ROOT / name, copy / name, ignore=ignored)
    for name in ("settings.ini", "pyproject.toml"): shutil.copy(ROOT / name, copy / name)
    for module in (copy / "faceseg").rglob("*.py"):
        if module.name != "__init__.py": module.unlink()  # a module without a notebook must show
    done = [run("nbdev_export", cwd=copy), run("nbdev_clean", cwd=copy),
            run("python", ROOT / ".ci" / "readme.py", copy)]
    printed = "".join(one.stdout + one.stderr for one in done if one.returncode)
    why = f"run nbdev_export, nbdev_clean and make readme, and commit the notebook with the module\n{printed}"
    for pattern, what in (("faceseg/**/*.py", "module matches its notebook"),
                          ("nbs/**/*.ipynb", "notebook is clean"),
                          ("README.md", "is made from nbs/index.ipynb")):
        paths = [(path, base) for base in (ROOT, copy) for path in base.glob(pattern)]
        names = {path.relative_to(base) for path, base in paths if ".ipynb_checkpoints" not in path.parts}
        for name in sorted(names):
            both = [base / name for base in (ROOT, copy)]
            same = all(path.exists() for path in both) and filecmp.cmp(*both, shallow=False)
            check(f"{name}: {what}", same, why)


# what a notebook of nbs/render needs besides the package: MakeHuman's head from pip's wheel, and the renderer
HEAD = "from faceseg.render.makehuman import makehuman; makehuman()"
RENDERER = """import os, pathlib
llvm = "/usr/lib/x86_64-linux-gnu/libLLVM-19.so"
if pathlib.Path(llvm).exists(): os.environ.setdefault("DRJIT_LIBLLVM_PATH", llvm)
import drjit, mitsuba, pyoidn
mitsuba.set_variant("llvm_ad_rgb")
drjit.eval(drjit.arange(mitsuba.Float, 4))"""
NEEDS = {"MakeHuman's head": HEAD, "the renderer": RENDERER}
WITHOUT_THE_RENDERER = ("makehuman", "head", "brow", "strands", "hairstyle", "growth", "facial_hair",
                        "labels", "landmarks", "person", "skin", "garments", "accessories")


def needs_of(path):
    "What a notebook of nbs/render needs."
    if path.stem[3:] == "camera": return []
    return ["MakeHuman's head"] if path.stem[3:] in WITHOUT_THE_RENDERER else list(NEEDS)


def render_notebooks():
    "The notebooks of nbs/render that can run here; says in a line which cannot, and why."
    lacking = {}
    for name, code in NEEDS.items():
        done = run("python", "-c", code, PIP_RETRIES="1", PIP_DEFAULT_TIMEOUT="15")
        if done.returncode: lacking[name] = (done.stderr.strip().splitlines() or ["no message"])[-1][:120]
    notebooks = sorted((ROOT / "nbs" / "render").glob("*.ipynb"))
    out = [path.stem for path in notebooks if set(needs_of(path)) & set(lacking)]
    if out:
        why = "; ".join(f"{name} cannot be had ({reason})" for name, reason in lacking.items())
        note(f"skipped: {', '.join(out)} of nbs/render: {why}. pip install '.[render]' and "
             "apt install libllvm19 bring the renderer")
    return [path for path in notebooks if path.stem not in out]


def test_notebooks():
    "All notebooks that are not studies."
    code = "import sys; from faceseg.datasets import shared_data; sys.exit(shared_data() is None)"
    if run("python", "-c", code).returncode:
        note("the real photographs are not beside the project: the notebooks skip their checks on them")
    rendering = render_notebooks()
    names = sorted(path.stem for path in [*(ROOT / "nbs").glob("*.ipynb"), *rendering])
    left_out = [re.escape(path.name) for path in (ROOT / "nbs" / "render").glob("*.ipynb")
                if path not in rendering]
    skip = ["--skip_file_re", rf"^[_.]|^({'|'.join(left_out)})$"] if left_out else []
    done = run("nbdev_test", "--n_workers", CORES, "--timing", "--do_print", *skip, MPLBACKEND="agg")
    broken = done.stderr.split("Failed On The Following Notebooks")[-1] if done.returncode else ""
    listed = [name for name in names if re.search(rf"(?m)^\s*{re.escape(name)}(\.ipynb)?\s*$", broken)]
    for line in done.stdout.splitlines():
        if re.search(r"secs|^skipped", line): note(line)
    if done.returncode and not listed: check("nbdev_test", False, done.stdout + done.stderr)
    for name in names:
        check(f"nbs/{name}.ipynb runs", name not in listed and f"/{name}.ipynb" in done.stdout, "see below")
    if listed: print(done.stderr)


def papermill(name, out, numbers, texts):
    "Run a study with some parameters; its results are in `out`."
    out.mkdir(exist_ok=True)
    options = [part for key, value in numbers.items() for part in ("-p", key, value)]
    options += [part for key, value in {**texts, "out_dir": out}.items() for part in ("-r", key, value)]
    study = ROOT / "nbs" / "studies" / f"{name}.ipynb"
    return run("papermill", "--no-progress-bar", study, out / f"{name}.ipynb", *options)


def results_of(name, done, out):
    "The results of a study that must have run, or None."
    check(f"{name} runs through papermill", done.returncode == 0, done.stderr[-3000:])
    return None if done.returncode else json.loads((out / "results.json").read_text())


def most_common(entry):
    "The fraction of pixels of the most common class."
    return max(map(sum, entry["confusion"])) / sum(map(sum, entry["confusion"]))


KHAN = {"n_train": 3, "n_test": 2, "height": 96, "fraction": 0.05, "n_augmented": 1, "n_trees": 10,
        "n_pictures": 1, "n_workers": 2}
RATES = {"recall", "precision", "f1", "iou"}


def check_model(model, entry):
    "A model's entry in the results of two test faces."
    classes = entry["classes"].values()
    rates = [entry["accuracy"], entry["mean_recall"], entry["mean_f1"]]
    rates += [rate for one in classes for rate in one.values() if rate is not None]
    check(f"{model}: rates are fractions", all(0 <= rate <= 1 for rate in rates), entry)
    whole = len(classes) == 11 and all(set(one) == RATES for one in classes)
    check(f"{model}: 11 classes with recall, precision, f1, iou", whole, entry["classes"])
    pixels, right = sum(map(sum, entry["confusion"])), sum(row[i] for i, row in enumerate(entry["confusion"]))
    check(f"{model}: every test pixel is counted once", pixels == 2 * 512 * 512, pixels)
    same = abs(right / pixels - entry["accuracy"]) < 1e-9
    check(f"{model}: accuracy is that of its confusion matrix", same, entry)
    common = most_common(entry)
    check(f"{model}: better than the most common class ({common:.3f})", entry["accuracy"] > common)
    low, high = entry["intervals"]["accuracy"]
    check(f"{model}: accuracy lies in its interval", low <= entry["accuracy"] <= high, entry["intervals"])
    costs = [entry[key] for key in ("fit_seconds", "predict_seconds_per_image", "peak_memory_mb")]
    check(f"{model}: costs are measured", min(costs) > 0, costs)


def test_study():
    "The comparison of methods with Khan et al., at a tiny size."
    out, texts = SCRATCH / "study", {"methods": "lapaseg,lapaseg-mlp,fast"}
    results = results_of("khan2015", papermill("khan2015", out, KHAN, texts), out)
    if results is None: return
    keys, found = {"parameters", "models", "published", "provenance"}, ",".join(results["models"])
    check("results.json has its keys", keys <= set(results) and found == texts["methods"], found)
    for model, entry in results["models"].items(): check_model(model, entry)
    parameters, origin = results["parameters"], results["provenance"]
    kept = [parameters[key] for key in ("n_train", "methods", "height")]
    check("parameters are kept", kept == [3, texts["methods"], 96], parameters)
    whole = {"commit", "dirty", "versions", "cpu", "threads", "data"} <= set(origin)
    check("provenance is complete", whole and len(origin["data"]["manifest_sha256"]) == 64, origin)
    header, *rows = (out / "results.csv").read_text().splitlines()
    first = f"lapaseg,,accuracy,{results['models']['lapaseg']['accuracy']}"
    check("results.csv has the same rates", header == "model,class,metric,value" and first in rows, rows[:5])
    test_report(out)
    test_refusals(out, texts)
    alone = SCRATCH / "alone"
    other = {"scheduler": "processes", "memory_limit": "2GB"}
    done = papermill("khan2015", alone, KHAN | {"n_workers": 1}, texts | other)
    by_one = results_of("khan2015 with one worker, a process, and rows on disk", done, alone)
    for model in results["models"] if by_one else ():
        both = [one["models"][model]["confusion"] for one in (results, by_one)]
        check(f"one worker and two give the same {model}", both[0] == both[1])


def test_report(out):
    "The report of a study is one HTML file that leads with the answer and needs no other host."
    done = run("python", ".ci/to_html.py", out / "khan2015.ipynb", out / "khan2015.html")
    check("a report is made", done.returncode == 0, done.stderr[-2000:])
    if done.returncode: return
    html = (out / "khan2015.html").read_text()
    loads = re.findall(r"""(?:src|srcset|data)\s*=\s*["'](?!data:)[^"']+|<link|@import|url\(|<script""", html)
    check("it asks no other host for anything", not loads, loads[:5])
    order = ("<h1", "<h2", "is right on", "<table", ">Beside Khan et al.<a", "<details>")
    places = [html.find(text) for text in order]
    ordered = -1 not in places and places == sorted(places)
    check("it leads with the answer and ends with what is folded", ordered, places)
    check("it shows no progress bar", "face/s]" not in html)


def test_refusals(out, texts):
    "Wrong parameters are refused before any work, and an earlier result is kept."
    before, samples = (out / "results.json").read_bytes(), out / "samples"

    def refused(what, message, numbers, texts):
        done = papermill("khan2015", out, KHAN | numbers, texts)
        check(f"{what} is refused", done.returncode != 0 and message in done.stderr, done.stderr[-2000:])

    message = "unknown parameter 'n_trian'; did you mean 'n_train'?"
    refused("an unknown parameter", message, {"n_trian": 3}, texts)
    message = "unknown method 'svm'; there are: khan2015, "
    refused("a wrong method", message, {"seed": 5}, {"methods": "lapaseg,svm"})
    check("and leaves the earlier results.json", (out / "results.json").read_bytes() == before)
    check("before anything is sampled", len(list(samples.iterdir())) == 2, list(samples.iterdir()))
    results_of("khan2015 once more", papermill("khan2015", out, KHAN, {"methods": "lapaseg"}), out)
    kept = [path for path in out.glob("results.*.json") if path.read_bytes() == before]
    check("and keeps the earlier results.json", len(kept) == 1, sorted(path.name for path in out.iterdir()))


def test_learning_curve():
    "The learning curve, at a tiny size."
    out = SCRATCH / "curve"
    tiny = {"draws": 1, "n_test": 2, "steps": 2, "rendered_steps": 2, "size": 64, "n_workers": 2}
    texts = {"dataset": "demo", "data_dir": "", "test_split": "test", "counts": "0,2", "halved": "2",
             "methods": "hsv32+location/et/image,unet+rendered,unet"}
    results = results_of("learning_curve", papermill("learning_curve", out, tiny, texts), out)
    if results is None: return
    points = [(one["method"], one["n"]) for one in results["points"]]
    expected = [("hsv32+location/et/image", 2), ("unet", 2), ("unet+rendered", 0), ("unet+rendered", 2)]
    check("each method has its points", sorted(points) == sorted(expected), points)
    halved = {one["method"] for one in results["points"] if "half" in one}
    check("networks are trained with half of the steps too", halved == {"unet", "unet+rendered"}, halved)
    files = {path: path.read_bytes() for path in (out / "points").glob("*.json")}
    next(path for path in files if path.name.startswith("unet-2")).unlink()
    again = results_of("learning_curve once more", papermill("learning_curve", out, tiny, texts), out)
    kept = all(path.read_bytes() == data for path, data in files.items() if "unet-2" not in path.name)
    check("a stopped run goes on with the points that are there", again is not None and kept)


def test_scale():
    "The study of scale, at a tiny size."
    out = SCRATCH / "scale"
    tiny = {"n_test": 2, "n_speed": 2, "repeats": 1, "n_workers": 2}
    texts = {"dataset": "demo", "data_dir": "", "test_split": "test", "counts": "2,4", "recipe": "fast",
             "schedulers": "threads,processes"}
    results = results_of("scale", papermill("scale", out, tiny, texts), out)
    if results is None: return
    costs = results["cost"]
    made = [costs[n]["gathering"]["made"] for n in costs]
    copied = json.loads((out / "points" / "with-copies.json").read_text())["made"]
    check("each number of faces has its cost, with copies too", (made, copied) == ([2, 4], 2), costs)
    kinds = set(results["gain"])
    check("both kinds of workers were timed", kinds == {"threads", "processes"}, kinds)
    before = {path: path.stat().st_mtime_ns for path in (out / "points").iterdir()}
    again = results_of("scale once more", papermill("scale", out, tiny, texts), out)
    kept = {path: path.stat().st_mtime_ns for path in (out / "points").iterdir()}
    check("a run that goes on measures nothing twice", again is not None and kept == before)


def test_label():
    "The labeller's notebook where there is no browser, and, where there is one, in it."
    out = SCRATCH / "label"
    out.mkdir()
    study = ROOT / "nbs" / "studies" / "label.ipynb"
    label = lambda *options: run("papermill", "--no-progress-bar", study, out / "label.ipynb", "-r", "home",
                                 out / "home", *options)
    done = label()
    check("label runs through papermill", done.returncode == 0, done.stderr[-3000:])
    still = '"image/jpeg"' in (out / "label.ipynb").read_text()
    check("it shows a still picture where there is no browser", still)
    done = label("-r", "photos", out)
    message = "unknown parameter 'photos'; did you mean 'photographs'?"
    check("it refuses a parameter that it does not know", message in done.stderr, done.stderr[-2000:])
    done = run("python", ".ci/look.py", "--labeller-only", "--kills", "1")
    lines = done.stdout.splitlines() or [done.stderr[-2000:]]
    if lines[0].startswith("skipped"): note(f"the labeller in a browser: {lines[0]}")
    else: check(f"the labeller in a browser: {lines[-1]}", not done.returncode, done.stdout + done.stderr)


def test_scribbles():
    "The study of scribbles, corrections, redrawn parts and full maps, at a tiny size."
    out = SCRATCH / "scribbles"
    tiny = {"draws": 1, "n_compared": 2, "share": 1, "region": 50, "n_test": 2, "n_pool": 6, "n_chosen": 4,
            "choice_draws": 1, "choice_epochs": 1, "n_workers": 2}
    texts = {"dataset": "demo", "data_dir": "", "test_split": "test", "recipe": "fast", "counts": "2",
             "shares": "1,2", "regions": "50", "overlaps": "70,100", "strategies": "random,uncertain"}
    results = results_of("scribbles", papermill("scribbles", out, tiny, texts), out)
    if results is None: return
    points = {(one["method"], one["n"]): one for one in results["points"]}
    ways = ("full", "scribbles-1", "scribbles-2", "corrections-50", "redrawn-70", "redrawn-100")
    expected = {(method, 2) for method in ways}
    check("each way of labelling has its points", set(points) == expected, set(points))
    shares = [100 * points[f"scribbles-{one}", 2]["labelled"] for one in (1, 2)]
    asked = all(abs(found / one - 1) < 0.25 for found, one in zip(shares, (1, 2)))
    check("scribbles label the share of pixels that was asked for", asked, shares)
    check("and no pixel wrongly", points["scribbles-2", 2]["right"] == points["full", 2]["right"] == 1)
    rows = [points[method, 2]["rows"] for method in ("scribbles-1", "scribbles-2", "full")]
    check("more labelled pixels are more training rows", rows == sorted(set(rows)), rows)
    cost = results["share_of_minutes"]
    check("fewer strokes take less time, and a full map the most",
          0 < cost["scribbles-1"] < cost["scribbles-2"] < cost["full"] == 1, cost)
    check("more redrawn parts take more time", 0 < cost["redrawn-70"] < cost["redrawn-100"] < 1.5, cost)
    right = [points[f"redrawn-{one}", 2]["right"] for one in (70, 100)]
    check("and leave fewer wrong pixels", right[0] < right[1] <= 1, right)
    chosen = {(one["strategy"], one["n"]): one["chosen"] for one in results["choices"]}
    sizes = all(len(set(some)) == n for (_, n), some in chosen.items())
    there = {("random", 4), ("uncertain", 2), ("uncertain", 4)}
    check("photographs are chosen two at a time", sizes and set(chosen) == there, chosen)
    two, four = chosen["uncertain", 2], chosen["uncertain", 4]
    check("and those that are chosen stay chosen", four[:2] == two, chosen)
    before = {path: path.stat().st_mtime_ns for path in (out / "points").iterdir()}
    again = results_of("scribbles once more", papermill("scribbles", out, tiny, texts), out)
    kept = {path: path.stat().st_mtime_ns for path in (out / "points").iterdir()}
    check("a run that goes on measures nothing twice", again is not None and kept == before)
    done = papermill("scribbles", out, tiny, texts | {"strategies": "random,best"})
    message = "strategies are random, uncertain and different; found 'best'"
    refused = done.returncode != 0 and message in done.stderr
    check("an unknown strategy is refused", refused, done.stderr[-2000:])
    done = papermill("scribbles", out, tiny | {"seed": 1}, texts)
    refused = done.returncode != 0 and "was made with other parameters" in done.stderr
    check("points of other parameters are refused", refused, done.stderr[-2000:])


def test_ablation():
    "A recipe without two of its parts, at a tiny size."
    out = SCRATCH / "ablation"
    tiny = {"n_train": 3, "n_test": 3, "n_workers": 2}
    texts = {"recipes": "fast", "only": "altered copies,surroundings"}
    results = results_of("ablation", papermill("ablation", out, tiny, texts), out)
    if results is None: return
    parts = {name.removeprefix("fast without ") for name in results["models"]}
    check("each part is left out", parts == {"nothing", "altered copies", "surroundings"}, parts)
    for part, found in results["differences"]["fast"].items():
        both = [results["models"][f"fast without {one}"]["mean_f1"] for one in (part, "nothing")]
        value, low, high = found["mean_f1"]
        check(f"without {part}: the difference lies in its interval",
              abs(value - (both[0] - both[1])) < 1e-9 and low <= value <= high, found)


def test_failures():
    "Where the model that ships is wrong, on a few faces."
    out = SCRATCH / "failures"
    results = results_of("failures", papermill("failures", out, {"n_test": 4, "n_workers": 2}, {}), out)
    if results is None: return
    entry, (pixels, wrong) = next(iter(results["models"].values())), results["by_distance"]
    share = 1 - sum(wrong) / sum(pixels)
    check("every pixel has its distance from a boundary", sum(pixels) == 4 * 512 * 512, sum(pixels))
    check("and its error is counted once", abs(share - entry["accuracy"]) < 1e-9, (share, entry["accuracy"]))
    check("faces are in groups", {"yaw", "skin tone", "hair"} <= set(results["groups"]), results["groups"])
    errors = results["calibration"]
    small = all(0 <= errors[key] < 0.5 for key in ("ece", "ece_with_temperature"))
    check("calibration is measured", small, errors)


def test_landmarks():
    "Landmarks as features, at a tiny size."
    out = SCRATCH / "landmarks"
    tiny = {"n_train": 4, "n_test": 2, "height": 96, "fraction": 0.05, "n_trees": 5, "n_noise": 1,
            "n_workers": 2}
    texts = {"noise": "0,0.2", "models": "rf"}
    results = results_of("landmarks", papermill("landmarks", out, tiny, texts), out)
    if results is None: return
    models, noise = results["models"], results["noise"]["the recipe"]
    whole = len(models) == 6 and "the recipe" in models
    check("it has five steps, and the recipe", whole, sorted(models))
    first, last = models["rf, colour + location"], models["the recipe"]
    better = last["mean_f1"] > first["mean_f1"]
    check("the recipe is better than colour and location", better, last["mean_f1"])
    check("errors of landmarks lower the scores", noise[0]["mean_f1"] > noise[1]["mean_f1"], noise)


def test_synthetic():
    "Rendered faces as training data, at a tiny size; with photographs where they are at hand."
    out = SCRATCH / "synthetic"
    tiny = {"n_train": 6, "n_test": 3, "height": 96, "fraction": 0.03, "n_trees": 5, "n_probe": 2,
            "n_workers": 2}
    texts = {"models": "et,mlp", "without": "turned"}
    results = results_of("synthetic", papermill("synthetic", out, tiny, texts), out)
    if results is None: return
    sources, models = results["trained_on"], results["models"]
    known = set(sources) - {"drawn"} in ({"rendered"}, {"rendered", "photographs", "both"})
    check("it trains on rendered faces, and on photographs where there are any", known, sources)
    whole = len(models) == 2 * len(sources) * len(results["tested_on"])
    rates = [entry["accuracy"] for entry in models.values()]
    fractions = 0 <= min(rates) <= max(rates) <= 1
    check("it scores each model, training set and test set", whole and fractions, rates)
    for model in ("et", "mlp"):
        entry = models[f"{model}, rendered, rendered"]
        common = most_common(entry)
        what = f"{model} on rendered faces: better than the most common class ({common:.3f})"
        check(what, entry["accuracy"] > common, entry["accuracy"])
    check("a kind of face was left out", set(results["without"]) == {"turned"}, results["without"])

    def refused(what, message, **texts_):
        done = papermill("synthetic", out, tiny, texts | texts_)
        check(what, done.returncode != 0 and message in done.stderr, done.stderr[-2000:])

    message = "unknown kind of face 'hats' in without"
    refused("an unknown kind of face is refused", message, without="hats")
    refused("nothing ships after a part of the tests", "a card quotes whole test sets", ship="mlp",
            ship_dir=out)
    check("and no model is written", not (out / "demo.safetensors").exists())


def test_constants():
    "Constants varied, at a tiny size."
    out = SCRATCH / "constants"
    tiny = {"n_train": 2, "n_test": 1, "n_seeds": 2, "n_workers": 2}
    done = papermill("constants", out, tiny, {"only": "SATURATIONS,refine"})
    results = results_of("constants", done, out)
    if results is None: return
    varied = [(run["name"], run["chosen"] != run["value"]) for run in results["varied"]]
    check("each value is varied", varied == [("SATURATIONS", True)] * 2 + [("refine", True)], varied)
    differences = [run["difference"]["accuracy"] for run in results["varied"]]
    check("each changes the result", 0 not in differences, differences)
    refused = papermill("constants", out, tiny, {"only": "HEIGHT"})
    told = "unknown name 'HEIGHT' in only" in refused.stderr
    check("an unknown name is refused", told, refused.stderr[-2000:])


def test_poses():
    "The study of turned heads, at a tiny size."
    out = SCRATCH / "poses"
    tiny = {"n_train": 3, "n_test": 12, "n_trees": 4, "height": 136, "render": 0, "n_workers": 2}
    results = results_of("poses", papermill("poses", out, tiny, {}), out)
    if results is None: return
    counted = sum(one["n"] for one in results["by_yaw"].values()) + len(results["not_found"]["rendered"])
    check("every rendered test face is counted", counted == 12, results["by_yaw"])
    outside = [one["hair_outside"] for one in results["by_yaw"].values()]
    check("crops hold the hair at every yaw", max(outside) < 0.05, outside)
    refused = papermill("poses", out, tiny, {"dataset": "fasseg"})
    check("V3 without its folder is refused", "data_dir is the folder that holds V3" in refused.stderr,
          refused.stderr[-2000:])


INSTALLED = """import faceseg.datasets
from faceseg.face import DataError
from faceseg.segmenter import FaceSegmenter, shipped_model
FaceSegmenter.load(shipped_model())
try: faceseg.datasets.list_faces('demo')
except DataError as error: print(faceseg.datasets.__file__, error)"""


def test_wheel():
    "What is installed holds the model that ships and its card, and says where the demo faces are."
    source, site = SCRATCH / "source", SCRATCH / "site"
    shutil.copytree(ROOT / "faceseg", source / "faceseg", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"): shutil.copy(ROOT / name, source)
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", SCRATCH / "wheel")
    done = run("pip", "wheel", *options, source)
    if "setuptools" in done.stderr and "No module" in done.stderr:
        note("skipped: no wheel is made, setuptools is not in this environment")
        return
    check("a wheel is made", done.returncode == 0, done.stderr[-2000:])
    if done.returncode: return
    wheel = next((SCRATCH / "wheel").glob("faceseg-*.whl"))
    held = zipfile.ZipFile(wheel).namelist()
    files = {"faceseg/models/demo.safetensors", "faceseg/models/demo.md", "faceseg/models/shape.safetensors",
             "faceseg/render/scene.py", "faceseg/labeller.js", "faceseg/labeller.css"}
    check("the wheel holds the models, the card and the renderer", files <= set(held), held)
    check("and no data", not [name for name in held if name.startswith("data/")], held)
    shutil.unpack_archive(wheel, site, "zip")
    done = run("python", "-c", INSTALLED, cwd=SCRATCH, PYTHONPATH=str(site))
    told = done.stdout.startswith(str(site)) and "the demo faces are not here" in done.stdout
    check("an installed package says where the demo faces are", told, done.stdout + done.stderr)


def test_benchmark():
    "The benchmark, at a size that says nothing about speed."
    out = SCRATCH / "benchmark"
    tiny = {"n_train": 5, "n_test": 2, "height": 96, "fraction": 0.05, "side": 96, "naive_pixels": 10,
            "repeats": 1, "n_trees": 4, "growing_trees": 2}
    texts = {"trees": "2,4", "sizes": "64,96", "counts": "1,3", "features": "lapaseg"}
    results = results_of("benchmark", papermill("benchmark", out, tiny, texts), out)
    if results is None: return
    ratios, loss = results["ratios"], results["accuracy_loss_coarse"]
    keys = {"features", "forest_exact", "forest_coarse", "mlp_dense"}
    check("the benchmark has its keys", keys <= set(ratios) and min(ratios.values()) > 0, ratios)
    check("virtual features are cheaper than patches", ratios["features"] > 50, ratios)
    check("a forest of 4 trees loses little from coarse to fine", abs(loss) < 0.05, loss)
    check("the same bytes for 1, 2 and 4 workers", results["identical_across_workers"] is True)
    costs = [results["peak_memory_mb"]["features"], results["seconds"]["photo_to_labels"]]
    check("cost is measured", min(costs) > 0, costs)


# beside the notebooks: the longest first, so that none is left running alone
OTHERS = (test_label, test_study, test_scribbles, test_scale, test_landmarks, test_constants,
          test_benchmark, test_learning_curve, test_synthetic, test_ablation, test_failures, test_poses,
          test_exports, test_wheel)


def side_by_side(jobs):
    "Run jobs, pairs of a function and the slots that it takes, in their order as slots become free."
    free, turn = threading.Semaphore(SLOTS), threading.Lock()

    def take(job):
        function, slots = job
        with turn:
            for _ in range(slots): free.acquire()
        try: function()
        finally: free.release(slots)

    with ThreadPoolExecutor(SLOTS + 1) as pool: list(pool.map(take, jobs))


if __name__ == "__main__":
    start = time.time()
    try:
        test_house()
        side_by_side([(test_notebooks, SLOTS - 1), *((test, 1) for test in OTHERS)])
    finally: shutil.rmtree(SCRATCH, ignore_errors=True)
    print(f"{time.time() - start:.0f} seconds")
    print(f"{len(passed)} passed, {len(failed)} failed")
    sys.exit(bool(failed) or not passed)
