"""What `make test` runs: modules against notebooks, all notebooks, and the study itself. Ends with one line, `N passed, M failed`."""
import filecmp
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
SCRATCH = Path(tempfile.mkdtemp(prefix="faceseg-test-"))
CORES = os.cpu_count() or 1
passed, failed = [], []


def run(*command, cwd=ROOT, **environment):
    "Run one of the environment's programs; what it printed is in the result."
    return subprocess.run([str(BIN / command[0]), *map(str, command[1:])], cwd=cwd, capture_output=True, text=True, stdin=subprocess.DEVNULL,
                          env={**os.environ, **environment})


def check(name, ok, why=""):
    (passed if ok else failed).append(name)
    print(f"{'ok    ' if ok else 'FAILED'} {name}" + ("" if ok else f"\n{why}".replace("\n", "\n       ")), flush=True)


def test_exports():
    "Exporting, cleaning and rendering a copy of the tree must change nothing."
    copy = SCRATCH / "copy"
    for name in ("nbs", "faceseg", "settings.ini", "pyproject.toml"):
        source = ROOT / name
        if source.is_dir(): shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
        else: shutil.copy(source, copy / name)
    for module in (copy / "faceseg").rglob("*.py"):
        if module.name != "__init__.py": module.unlink()  # a module without a notebook must show
    done = [run("nbdev_export", cwd=copy), run("nbdev_clean", cwd=copy), run("python", ROOT / ".ci" / "readme.py", copy)]
    said = "".join(d.stdout + d.stderr for d in done if d.returncode)
    for kind, pattern in (("module matches its notebook", "faceseg/**/*.py"), ("notebook is clean", "nbs/**/*.ipynb"), ("is made from nbs/index.ipynb", "README.md")):
        for name in sorted({str(p.relative_to(base)) for base in (ROOT, copy) for p in base.glob(pattern) if ".ipynb_checkpoints" not in p.parts}):
            a, b = ROOT / name, copy / name
            same = a.exists() and b.exists() and filecmp.cmp(a, b, shallow=False)
            check(f"{name}: {kind}", same, f"run nbdev_export, nbdev_clean and make readme, and commit the notebook with the module\n{said}")


# what a notebook of nbs/render needs, besides what the package needs: MakeHuman's head from pip's wheel, and the renderer
HEAD = "from faceseg.render.head import makehuman; makehuman()"
RENDERER = """import os, pathlib
if pathlib.Path(llvm := "/usr/lib/x86_64-linux-gnu/libLLVM-19.so").exists(): os.environ.setdefault("DRJIT_LIBLLVM_PATH", llvm)
import drjit, mitsuba, pyoidn
mitsuba.set_variant("llvm_ad_rgb")
drjit.eval(drjit.arange(mitsuba.Float, 4))"""
WITHOUT_THE_RENDERER = ("head", "hair", "labels", "landmarks", "person")


def render_notebooks():
    "The notebooks of nbs/render that can run here; says in a line which cannot, and why."
    there = sorted((ROOT / "nbs" / "render").glob("*.ipynb"))
    lacks = {name: done.stderr.strip().splitlines()[-1:] or [f"ended with {done.returncode}"] for name, code in {"MakeHuman's head": HEAD, "the renderer": RENDERER}.items()
             if (done := run("python", "-c", code, PIP_RETRIES="1", PIP_DEFAULT_TIMEOUT="15")).returncode}
    stem = lambda path: path.stem.split("_", 1)[-1]
    needs = {path: [] if stem(path) == "camera" else ["MakeHuman's head"] if stem(path) in WITHOUT_THE_RENDERER else ["MakeHuman's head", "the renderer"] for path in there}
    left = {path: [name for name in need if name in lacks] for path, need in needs.items()}
    if out := [path.stem for path in there if left[path]]:
        why = "; ".join(f"{name} is not here ({lacks[name][0][:120]})" for name in dict.fromkeys(sum(left.values(), [])))
        print(f"       skipped: {', '.join(out)} of nbs/render: {why}. pip install '.[render]' and apt install libllvm19 bring the renderer")
    return [path for path in there if not left[path]]


def test_notebooks():
    "All notebooks that are not studies, in parallel."
    if run("python", "-c", "import faceseg.data, sys; sys.exit(faceseg.data.shared_data() is None)").returncode:
        print("       the real photographs are not beside the project: the notebooks skip their checks on them")
    rendering = render_notebooks()
    names = sorted(p.stem for p in [*(ROOT / "nbs").glob("*.ipynb"), *rendering])
    left_out = [p.name for p in (ROOT / "nbs" / "render").glob("*.ipynb") if p not in rendering]
    threads = {f"{library}_NUM_THREADS": str(max(1, CORES // 2)) for library in ("OMP", "OPENBLAS", "MKL")}
    done = run("nbdev_test", "--n_workers", CORES, "--timing", "--do_print", *(["--skip_file_re", rf"^[_.]|^({'|'.join(map(re.escape, left_out))})$"] if left_out else []), MPLBACKEND="agg", **threads)
    broken = done.stderr.split("Failed On The Following Notebooks")[-1] if done.returncode else ""
    listed = [name for name in names if re.search(rf"(?m)^\s*{re.escape(name)}(\.ipynb)?\s*$", broken)]
    print("".join(f"       {line}\n" for line in done.stdout.splitlines() if re.search(r"secs|^skipped", line)), end="")
    if done.returncode and not listed: return check("nbdev_test", False, done.stdout + done.stderr)
    for name in names: check(f"nbs/{name}.ipynb runs", name not in listed and f"/{name}.ipynb" in done.stdout, "see below")
    if listed: print(done.stderr)


def study(out, *parameters):
    "The study through papermill, at a tiny size."
    tiny = ["-p", "n_train", 3, "-p", "n_test", 2, "-p", "height", 96, "-p", "share", 0.05, "-p", "copies", 1, "-p", "n_trees", 10, "-p", "n_pictures", 1, "-p", "n_workers", 2]
    out.mkdir(exist_ok=True)
    return run("papermill", "--no-progress-bar", ROOT / "nbs" / "studies" / "khan2015.ipynb", out / "khan2015.ipynb", "-r", "out_dir", out, *tiny, *parameters)


def test_study():
    out = SCRATCH / "study"
    done = study(out, "-r", "features", "seed2024")
    check("the study runs through papermill", done.returncode == 0, done.stderr[-3000:])
    if done.returncode: return
    results = json.loads((out / "results.json").read_text())
    keys = {"parameters", "models", "published", "provenance"}
    check("results.json has its keys", keys <= set(results) and set(results["models"]) == {"rf", "et", "mlp"}, sorted(results))
    for model, entry in results["models"].items():
        rates = [entry["accuracy"], entry["mean_recall"], entry["mean_f1"], *(v for c in entry["classes"].values() for v in c.values() if v is not None)]
        check(f"{model}: rates are fractions", all(0 <= rate <= 1 for rate in rates), entry)
        check(f"{model}: 11 classes with recall, precision, f1, iou", len(entry["classes"]) == 11 and all(set(c) == {"recall", "precision", "f1", "iou"} for c in entry["classes"].values()), entry["classes"])
        pixels = sum(map(sum, entry["confusion"]))
        check(f"{model}: every test pixel is counted once", pixels == 2 * 512 * 512, pixels)
        check(f"{model}: accuracy is that of its confusion matrix", abs(sum(row[i] for i, row in enumerate(entry["confusion"])) / pixels - entry["accuracy"]) < 1e-9, entry)
        common = max(map(sum, entry["confusion"])) / pixels
        check(f"{model}: better than the most common class ({common:.3f})", entry["accuracy"] > common, entry["accuracy"])
        check(f"{model}: costs are measured", min(entry[k] for k in ("fit_seconds", "predict_seconds_per_image", "peak_memory_mb")) > 0, entry)
    parameters, origin = results["parameters"], results["provenance"]
    check("parameters are kept", (parameters["n_train"], parameters["features"], parameters["height"]) == (3, "seed2024", 96), parameters)
    check("provenance is complete", {"commit", "dirty", "versions", "cpu", "threads", "data"} <= set(origin) and len(origin["data"]["manifest_sha256"]) == 64, origin)
    header, *rows = (out / "results.csv").read_text().splitlines()
    check("results.csv has the same rates", header == "model,class,metric,value" and f"rf,,accuracy,{results['models']['rf']['accuracy']}" in rows, rows[:5])

    before = (out / "results.json").read_bytes()
    done = study(out, "-p", "n_trian", 3)
    check("an unknown parameter is refused", done.returncode != 0 and "unknown parameter 'n_trian'; did you mean 'n_train'?" in done.stderr, done.stderr[-2000:])
    done = study(out, "-r", "models", "rf,svm", "-p", "seed", 5)
    check("a wrong model is refused", done.returncode != 0 and "unknown model 'svm'; there are: rf, et, mlp" in done.stderr, done.stderr[-2000:])
    check("and leaves the earlier results.json", (out / "results.json").read_bytes() == before)
    check("before anything is sampled", len(list((out / "samples").iterdir())) == 1)
    again = study(out, "-r", "features", "seed2024")
    check("the study runs again", again.returncode == 0, again.stderr[-3000:])
    kept = [p for p in out.glob("results.*.json") if p.read_bytes() == before]
    check("and keeps the earlier results.json", len(kept) == 1, sorted(p.name for p in out.iterdir()))
    alone = study(SCRATCH / "alone", "-r", "features", "seed2024", "-p", "n_workers", 1)
    check("the study runs with one worker", alone.returncode == 0, alone.stderr[-3000:])
    if alone.returncode: return
    models = [json.loads(text)["models"] for text in (before, (SCRATCH / "alone" / "results.json").read_bytes())]
    for model in ("rf", "et", "mlp"): check(f"one worker and two give the same {model}", models[0][model]["confusion"] == models[1][model]["confusion"])


def test_landmarks():
    "What landmarks are worth, through papermill, at a tiny size."
    out = SCRATCH / "landmarks"
    out.mkdir()
    tiny = {"n_train": 4, "n_test": 2, "height": 96, "share": 0.05, "n_trees": 5, "n_noise": 1, "n_workers": 2}
    done = run("papermill", "--no-progress-bar", ROOT / "nbs" / "studies" / "landmarks.ipynb", out / "landmarks.ipynb", "-r", "out_dir", out, "-r", "noise", "0,0.2",
               *(k for name, value in tiny.items() for k in ("-p", name, value)))
    check("the landmarks study runs through papermill", done.returncode == 0, done.stderr[-3000:])
    if done.returncode: return
    results = json.loads((out / "results.json").read_text())
    models, noise = results["models"], results["noise"]["the recipe"]
    check("it has five steps with two models each, and the recipe", len(models) == 11 and "the recipe" in models, sorted(models))
    check("the recipe is better than colour and location", models["the recipe"]["mean_f1"] > models["rf, colour + location"]["mean_f1"], models["the recipe"]["mean_f1"])
    check("wrong landmarks cost", noise[0]["mean_f1"] > noise[1]["mean_f1"], noise)


def test_synthetic():
    "What rendered faces teach, through papermill, at a tiny size; with photographs where they are at hand."
    out = SCRATCH / "synthetic"
    out.mkdir()
    tiny = {"n_train": 6, "n_test": 3, "height": 96, "share": 0.03, "n_trees": 5, "n_probe": 2, "n_workers": 2}
    texts = {"models": "et,mlp", "without": "turned", "out_dir": out}
    command = lambda **more: run("papermill", "--no-progress-bar", ROOT / "nbs" / "studies" / "synthetic.ipynb", out / "synthetic.ipynb",
                                 *(k for name, value in tiny.items() for k in ("-p", name, value)), *(k for name, value in (texts | more).items() for k in ("-r", name, value)))
    done = command()
    check("the synthetic study runs through papermill", done.returncode == 0, done.stderr[-3000:])
    if done.returncode: return
    results = json.loads((out / "results.json").read_text())
    lessons, tests = results["trained_on"], results["tested_on"]
    check("it learned from rendered faces, and from as many photographs and both where there are any", set(lessons) - {"drawn"} in ({"rendered"}, {"rendered", "photographs", "both"}), lessons)
    check("it has a score of each model, lesson and test set", len(results["models"]) == 2 * len(lessons) * len(tests) and all(0 <= e["accuracy"] <= 1 for e in results["models"].values()), sorted(results["models"]))
    for model in ("et", "mlp"):
        entry = results["models"][f"{model}, rendered, rendered"]
        common = max(map(sum, entry["confusion"])) / sum(map(sum, entry["confusion"]))
        check(f"{model} on rendered faces: better than the most common class ({common:.3f})", entry["accuracy"] > common, entry["accuracy"])
    check("a kind of face was left out", set(results["without"]) == {"turned"}, results["without"])
    refused = command(without="hats")
    check("an unknown kind of face is refused", refused.returncode != 0 and "unknown kind of face 'hats' in without" in refused.stderr, refused.stderr[-2000:])
    refused = command(ship="mlp", ship_dir=out)
    check("nothing ships after a part of the tests", refused.returncode != 0 and "a card quotes whole test sets" in refused.stderr and not (out / "demo.safetensors").exists(), refused.stderr[-2000:])


def test_wheel():
    "What is installed holds the model that ships and its card, and says where the demo faces are."
    for name in ("pyproject.toml", "README.md", "LICENSE"): (SCRATCH / "source").mkdir(exist_ok=True); shutil.copy(ROOT / name, SCRATCH / "source")
    shutil.copytree(ROOT / "faceseg", SCRATCH / "source" / "faceseg", ignore=shutil.ignore_patterns("__pycache__"))
    done = run("pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", SCRATCH / "wheel", SCRATCH / "source")
    if "setuptools" in done.stderr and "No module" in done.stderr: return print("       skipped: no wheel is made, setuptools is not in this environment")
    check("a wheel is made", done.returncode == 0, done.stderr[-2000:])
    if done.returncode: return
    wheel = next((SCRATCH / "wheel").glob("faceseg-*.whl"))
    held = zipfile.ZipFile(wheel).namelist()
    check("the wheel holds the model and its card", {"faceseg/models/demo.safetensors", "faceseg/models/demo.md"} <= set(held) and any(name.startswith("faceseg/render/") for name in held), held)
    check("and no data", not [name for name in held if name.startswith("data/")], held)
    shutil.unpack_archive(wheel, SCRATCH / "site", "zip")
    code = "import faceseg.data\nfrom faceseg.segmenter import FaceSegmenter, shipped_model\nFaceSegmenter.load(shipped_model())\ntry: faceseg.data.list_faces('demo')\nexcept faceseg.data.DataError as error: print(faceseg.data.__file__, error)"
    done = run("python", "-c", code, cwd=SCRATCH, PYTHONPATH=str(SCRATCH / "site"))
    check("an installed package says where the demo faces are", done.stdout.startswith(str(SCRATCH / "site")) and "the demo faces are not here" in done.stdout, done.stdout + done.stderr)


def test_benchmark():
    "The benchmark through papermill, at a size that says nothing about speed."
    out = SCRATCH / "benchmark"
    out.mkdir()
    tiny = {"n_train": 5, "n_test": 2, "height": 96, "share": 0.05, "side": 96, "naive_pixels": 10, "repeats": 1, "n_trees": 4, "growing_trees": 2}
    texts = {"trees": "2,4", "sizes": "64,96", "counts": "1,3", "features": "seed2024", "out_dir": out}
    done = run("papermill", "--no-progress-bar", ROOT / "nbs" / "studies" / "benchmark.ipynb", out / "benchmark.ipynb",
               *(k for name, value in tiny.items() for k in ("-p", name, value)), *(k for name, value in texts.items() for k in ("-r", name, value)))
    check("the benchmark runs through papermill", done.returncode == 0, done.stderr[-3000:])
    if done.returncode: return
    results = json.loads((out / "results.json").read_text())
    ratios = results["ratios"]
    check("the benchmark has its keys", {"features", "forest_exact", "forest_coarse", "mlp_dense"} <= set(ratios) and min(ratios.values()) > 0, ratios)
    check("virtual features are cheaper than patches", ratios["features"] > 50, ratios)
    check("a forest of 4 trees loses little from coarse to fine", abs(results["accuracy_loss_coarse"]) < 0.05, results["accuracy_loss_coarse"])
    check("the same bytes for 1, 2 and 4 workers", results["identical_across_workers"] is True)
    check("cost is measured", min(results["peak_memory_mb"]["features"], results["seconds"]["photo_to_labels"]) > 0, results["seconds"])


if __name__ == "__main__":
    start = time.time()
    try:
        for test in (test_exports, test_notebooks, test_wheel, test_study, test_landmarks, test_synthetic, test_benchmark): test()
    finally: shutil.rmtree(SCRATCH, ignore_errors=True)
    print(f"{time.time() - start:.0f} seconds")
    print(f"{len(passed)} passed, {len(failed)} failed")
    sys.exit(bool(failed) or not passed)
