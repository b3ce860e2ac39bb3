"""What `make torture` runs: commands and a study, killed at random moments, and thousands of mutated inputs.

A run that is killed and then run again must leave the bytes of a run that was never disturbed. No input may
end the process, hang, or take more than 1 GB: it is used, or refused with a DataError."""
import argparse
import io
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

from faceseg.cartoon import draw_face
from faceseg.face import DataError
from faceseg.files import FaceFiles, encode_labels, encode_landmarks, read_face, write_lapa
from faceseg.modelfile import encode_model, read_model_file
from faceseg.sampling import sample_face
from faceseg.segmenter import FaceSegmenter

ROOT = Path(__file__).resolve().parents[1]
COMMAND = [sys.executable, "-c", "from faceseg.cli import main; main()"]
TRAIN = [*COMMAND, "train", "faces", "--features", "hsv16+location+distances", "--model", "et+mlp",
         "--height", "128", "--n-trees", "5", "--prior", "none", "--out", "out/model.safetensors"]
ON_DISK = ["--memory-limit", "1GB", "--samples-dir", "out/rows", "--scheduler", "processes"]
SEGMENT = [*COMMAND, "segment", "faces/train/images", "--landmarks", "faces/train/landmarks", "--model",
           "model.safetensors", "--out", "out", "--proba"]
STUDY = [Path(sys.executable).with_name("papermill"), "--no-progress-bar",
         ROOT / "nbs/studies/khan2015.ipynb", "study.ipynb"]
for pair in ("n_train 3", "n_test 2", "height 96", "fraction 0.05", "n_trees 10", "n_pictures 1",
             "n_workers 2"):
    STUDY += ["-p", *pair.split()]
STUDY += ["-r", "methods", "lapaseg,fast"]
COSTS = re.compile(r"seconds|memory|finished|commit|dirty")  # keys of results that differ by run
OLDER = re.compile(r"results\.\d+-\d+\.json")  # results of an earlier run are kept under its date
SECONDS, MEMORY = 60, 1e9  # for one input; of a process that reads inputs, in bytes


def faces_in(folder, n):
    "Drawn faces in LaPa's layout."
    for k in range(n): write_lapa(draw_face(k, (160, 128)), folder / "train")


def without_costs(value):
    "The results of a study without what differs from run to run."
    if isinstance(value, dict):
        return {key: without_costs(one) for key, one in value.items() if not COSTS.search(key)}
    return [without_costs(one) for one in value] if isinstance(value, list) else value


def contents(folder):
    "All files of a folder that say what the run has made."
    files = {}
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.name in ("lock", ".lock") or OLDER.match(path.name): continue
        data = path.read_bytes()
        if path.name == "results.json": data = json.dumps(without_costs(json.loads(data))).encode()
        if path.suffix != ".csv": files[str(path.relative_to(folder))] = data
    return files


def start(command, folder):
    "Start a command in a folder, in a group of processes of its own."
    return subprocess.Popen(list(map(str, command)), cwd=folder, stdout=subprocess.DEVNULL,
                            stderr=subprocess.PIPE, text=True, start_new_session=True)


def kills(name, command, again, folder, n, rng):
    "Kill a command n times at random moments, run it again each time, and compare with an undisturbed run."
    out, same = folder / "out", 0
    start(command, folder).communicate()  # compiles, and fills caches
    shutil.rmtree(out)
    begin = time.time()
    whole = start(command, folder)
    told = whole.communicate()[1]
    if whole.returncode: sys.exit(f"{name} fails undisturbed:\n{told[-2000:]}")
    duration, expected = time.time() - begin, contents(out)
    for _ in range(n):
        shutil.rmtree(out)
        run, moment = start(command, folder), rng.uniform(0, duration)
        with suppress(subprocess.TimeoutExpired): run.wait(moment)
        with suppress(ProcessLookupError): os.killpg(run.pid, signal.SIGKILL)
        run.communicate()
        found = contents(out) if out.exists() else {}
        done = start(again, folder)
        told = done.communicate()[1]
        finished = done.returncode == 0 or (found == expected and "exists already" in told)
        after = contents(out)
        other = [file for file in after.keys() | expected if after.get(file) != expected.get(file)]
        right = finished and not other
        same += right
        print(f"{'ok    ' if right else 'FAILED'} {name}, killed after {moment:.1f} of {duration:.1f} s with "
              f"{len(found)} of {len(expected)} files", flush=True)
        if not right: print(f"       differ: {other[:3]}; {told[-300:]}", flush=True)
    return same


def bytes_changed(content, rng):
    "A file as accidents leave it: bytes changed, cut out, doubled or replaced, or its end missing."
    data = bytearray(content)
    at, n = int(rng.integers(len(data))), int(rng.integers(1, 60))
    if rng.random() < 0.5: at = int(rng.integers(min(200, len(data))))  # headers come first
    kind = rng.integers(5)
    if kind == 0: data[at] ^= 1 << int(rng.integers(8))
    elif kind == 1: del data[at:at + n]
    elif kind == 2: data[at:at] = data[at:at + n]
    elif kind == 3: data[at:at + n] = rng.bytes(min(n, len(data) - at))
    else: del data[at:]
    return bytes(data)


def odd_picture(rng):
    "A whole picture of an unusual kind, size or format."
    mode = str(rng.choice(["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I", "F", "I;16"]))
    kind = str(rng.choice(["PNG", "TIFF", "BMP", "GIF", "JPEG", "WEBP"]))
    size = [int(np.exp(rng.uniform(0, np.log(3000)))) for _ in range(2)]
    while np.prod(size) > 1e6: size = [max(1, side // 2) for side in size]
    noise = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    picture = picture.convert("L").convert(mode) if mode == "I;16" else picture.convert(mode)
    with suppress(OSError, ValueError, KeyError):
        picture.save(file := io.BytesIO(), kind)
        return file.getvalue()
    picture.convert("RGB").save(file := io.BytesIO(), "PNG")
    return file.getvalue()


ODD_NUMBERS = ("nan", "inf", "-inf", "1e30", "1e5", "-1e5", "0", "", "x", "1e-30", "512", "0.5", "1 2")


def landmarks_changed(points, rng):
    "A landmark file with other numbers, or points that are no face's."
    kind = rng.integers(4)
    if kind == 0:
        points = points * np.exp(rng.normal(0, 3)) + rng.normal(0, 200, 2)
        return encode_landmarks(points.astype(np.float32))
    if kind == 1:
        noise = rng.normal(0, np.exp(rng.uniform(-6, 6)), points.shape)
        points = points * rng.choice([0, 1, 1e-3], 2) + noise
        return encode_landmarks(points.astype(np.float32))
    words = [line.split(" ") for line in encode_landmarks(points).decode().split("\n")]
    for _ in range(int(rng.integers(1, 6))):
        line = words[int(rng.integers(len(words)))]
        line[int(rng.integers(len(line)))] = str(rng.choice(ODD_NUMBERS))
    return "\n".join(" ".join(line) for line in words).encode()


ODD_VALUES = (None, True, -1, 0, 1e9, 20000, float("nan"), float("inf"), 10**40, "0", "", "et+et", [], {},
              [0], ["a"], "a" * 100000, [[[]]], {"background": 1})


def header_changed(header, arrays, rng):
    "A model file with something else in its header or arrays, and a right checksum."
    header, arrays = json.loads(json.dumps(header)), dict(arrays)
    for _ in range(int(rng.integers(1, 4))):
        place, key = header, str(rng.choice(list(header)))
        while isinstance(place[key], (dict, list)) and place[key] and rng.random() < 0.8:
            place = place[key]
            key = int(rng.integers(len(place))) if isinstance(place, list) else str(rng.choice(list(place)))
        if rng.random() < 0.2: place.pop(key)
        else: place[key] = ODD_VALUES[int(rng.integers(len(ODD_VALUES)))]
        if not header: break
    if rng.random() < 0.3:
        name = str(rng.choice(list(arrays)))
        one = arrays[name]
        worse = one * np.nan if one.dtype.kind == "f" else one + 1
        other = (one[:-1], one.astype(np.float64), worse, one[..., None])
        arrays[name] = other[int(rng.integers(len(other)))]
    return encode_model(header, arrays)


class Inputs:
    "Mutated images, labels, landmarks and model files, and what reads them."
    kinds = ("image", "labels", "landmarks", "model")

    def __init__(self, folder):
        self.folder, self.face = folder, draw_face(0, (160, 128))
        model = folder.parent / "tiny.safetensors"
        if not model.exists():
            options = {"et": {"n_trees": 3}, "mlp": {"hidden": [8], "epochs": 1}}
            tiny = FaceSegmenter("hsv16+location+distances", "et+mlp", height=64, frame="face",
                                 model_options=options)
            tiny.fit([draw_face(k, (160, 128)) for k in range(2)]).save(model)
        self.content, self.segmenter = model.read_bytes(), FaceSegmenter.load(model)
        self.header, self.arrays = read_model_file(model)
        self.files = write_lapa(self.face, folder)

    def mutated(self, kind, rng):
        "The bytes of an input."
        plain = rng.random() < 0.5
        if kind == "image":
            return bytes_changed(self.files.image.read_bytes(), rng) if plain else odd_picture(rng)
        if kind == "labels":
            if plain: return bytes_changed(self.files.labels.read_bytes(), rng)
            if rng.random() < 0.5: return odd_picture(rng)
            labels = self.face.labels.copy()
            top, left, value = rng.integers(labels.shape[0]), rng.integers(labels.shape[1]), rng.integers(14)
            labels[top:, left:] = value if rng.random() < 0.5 else labels[top, left]
            return encode_labels(labels)
        if kind == "landmarks":
            whole = encode_landmarks(self.face.landmarks)
            return bytes_changed(whole, rng) if plain else landmarks_changed(self.face.landmarks, rng)
        return bytes_changed(self.content, rng) if plain else header_changed(self.header, self.arrays, rng)

    def use(self, kind, data):
        "Use an input as `train` and `segment` would; DataError where it is refused."
        (path := self.folder / "input").write_bytes(data)
        if kind == "model":
            FaceSegmenter.load(path).predict(self.face.image, self.face.landmarks)
            return
        files = FaceFiles("input", *(path if kind == one else getattr(self.files, one)
                                     for one in ("image", "labels", "landmarks")))
        if kind == "image": files = FaceFiles("input", path, None, files.landmarks)
        face = read_face(files)
        if kind == "labels": sample_face(face, 0, self.segmenter.parameters)
        else: self.segmenter.predict(face.image, face.landmarks)


def read_inputs(folder, first, last, seed):
    "Read some inputs in this process; prints how each went."
    inputs = Inputs(Path(folder))
    for k in range(first, last):
        kind, rng = Inputs.kinds[k % len(Inputs.kinds)], np.random.default_rng([seed, k])
        data = inputs.mutated(kind, rng)
        print(k, kind, end=" ", flush=True)
        signal.alarm(SECONDS)
        try: inputs.use(kind, data)
        except DataError as error: print(f"in several lines: {error!r}" if "\n" in str(error) else "refused")
        except Exception as error: print(f"error {type(error).__name__}: {str(error)[:200]}")
        else: print("used")
        signal.alarm(0)
    print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, flush=True)


def mutations(folder, n, seed, workers):
    "Read n mutated inputs in several processes; how many were handled, and the largest peak of memory."
    step, peak, outcomes, wrong = -(-n // workers), 0, Counter(), []
    Inputs(folder / "first")  # the model is made once

    def begin(w, first):
        (own := folder / f"{w}").mkdir(exist_ok=True)
        command = [sys.executable, __file__, "--read", own, first, min(n, (w + 1) * step), seed]
        return subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                text=True)

    running = {w: begin(w, w * step) for w in range(workers) if w * step < n}
    while running:
        for w, process in list(running.items()):
            lines, last = process.communicate()[0].splitlines(), None
            for line in lines:
                first, *rest = line.split(" ")
                if first == "peak":
                    peak = max(peak, int(rest[0]))
                    continue
                if not first.isdecimal(): continue
                last = int(first)
                how = " ".join(rest[1:]) or "ended the process or hung"
                outcomes[rest[0], how if how in ("used", "refused") else "wrong"] += 1
                if how not in ("used", "refused"): wrong.append(f"input {line or last}: {how}")
            del running[w]
            if process.returncode and last is not None and last + 1 < min(n, (w + 1) * step):
                running[w] = begin(w, last + 1)
            elif process.returncode and last is None: sys.exit(f"process {w} cannot read inputs")
    for line in wrong[:40]: print("FAILED", line)
    for kind in Inputs.kinds:
        print(f"{kind}: {outcomes[kind, 'used']} used, {outcomes[kind, 'refused']} refused, "
              f"{outcomes[kind, 'wrong']} wrong")
    print(f"largest peak of memory: {peak / 1e9:.2f} GB")
    return sum(count for (_, how), count in outcomes.items() if how != "wrong"), peak


def main():
    "Run it all; the exit code is 1 where something was not handled."
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20,
                        help="of each of train, train with rows on disk, segment and a study")
    parser.add_argument("--only", default="train,rows,segment,study", help="which of these are killed")
    parser.add_argument("--inputs", type=int, default=20000, help="mutated images, labels, landmarks, models")
    parser.add_argument("--seed", type=int, default=0, help="of moments and mutations")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes that read inputs")
    parser.add_argument("--read", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.read: return read_inputs(given.read[0], *map(int, given.read[1:]))
    with tempfile.TemporaryDirectory(prefix="faceseg-torture-") as room:
        folder, rng, failed = Path(room), np.random.default_rng(given.seed), 0
        Inputs(folder / "inputs" / "first")  # makes the model that `segment` reads
        if given.inputs:
            handled, peak = mutations(folder / "inputs", given.inputs, given.seed, given.workers)
            print(f"{handled} of {given.inputs} inputs handled", flush=True)
            failed += handled < given.inputs or peak > MEMORY
        commands = (("train", TRAIN, []), ("rows", [*TRAIN, *ON_DISK], []),
                    ("segment", SEGMENT, ["--resume"]),
                    ("study", [*STUDY, "-r", "out_dir", folder / "study/out"], []))
        for name, command, more in commands:
            if not given.kills or name not in given.only.split(","): continue
            faces_in((own := folder / name) / "faces", 24)
            shutil.copy(folder / "inputs/tiny.safetensors", own / "model.safetensors")
            same = kills(name, command, [*command, *more], own, given.kills, rng)
            print(f"{name}: {same} of {given.kills} kills end as if undisturbed", flush=True)
            failed += same < given.kills
    return bool(failed)


if __name__ == "__main__": sys.exit(main())
